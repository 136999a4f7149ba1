"""phi3svc beside other engines on one CPU; how it works is told in __main__.py."""
