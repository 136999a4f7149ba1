"""The command line: the layer above all others."""
