"""Pipelines: from texts to results in one call, with transformers' arguments and results."""
