"""Generated from protos/phi3svc/v1 by protos/generate.py; never edited by hand."""
