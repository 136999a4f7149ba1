"""Three small Phi-3 checkpoints that ship with the package, and the script that trained them."""
