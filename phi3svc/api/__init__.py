"""The Python API: the classes a transformers user knows, on this package's network and engine."""
