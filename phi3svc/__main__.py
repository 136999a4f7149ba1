"""`python -m phi3svc` is the `phi3svc` command."""

import sys

from phi3svc.cli.main import main

sys.exit(main())
