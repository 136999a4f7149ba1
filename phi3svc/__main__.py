"""`python -m phi3svc` is the `phi3svc` command."""

import sys

from phi3svc.cli import main

sys.exit(main())
