"""Text on both sides of a model: tokens, chat templates, streamed text, labelled spans."""
