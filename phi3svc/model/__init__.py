"""The Phi-3 network: from a checkpoint's files to hidden states, logits and scores."""
