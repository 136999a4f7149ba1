"""Logging set-up: one line per event, key=value pairs, to standard error.

The level comes from `PHI3SVC_LOG` (debug, info, warning, error; default warning). Prompts and
answers are never logged.
"""

from __future__ import annotations

import logging
import os
import sys

from phi3svc.errors import ConfigError

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def setup_logging(process: str) -> None:
    """Send this process's records to stderr; `process` ("front", "engine") names it in each line.

    Raises ConfigError on an unknown level.
    """
    level = os.environ.get("PHI3SVC_LOG", "warning").lower()
    if level not in LEVELS:
        raise ConfigError(f"PHI3SVC_LOG={level!r}: must be one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s %(levelname)s {process} %(name)s %(message)s")
    )
    root = logging.getLogger("phi3svc")
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    root.propagate = False
