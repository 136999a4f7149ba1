"""Commands that make of a checkpoint's folder what can be loaded, for messages to name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path


def transformers_command(path: Path, statements: str) -> str:
    """A shell command: Python `statements` with transformers as `t` and the folder as `p`."""
    code = f"import transformers as t; p = {json.dumps(str(path))}; {statements}"
    return f"python -c {shlex.quote(code)}"
