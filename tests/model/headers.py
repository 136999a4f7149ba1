"""Spoils the header of a safetensors file, and leaves its data alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit_header(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON header. It keeps its length if it can, as spaces may follow it."""
    data = file.read_bytes()
    header_len = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_len])
    edit(header)
    text = json.dumps(header, separators=(",", ":")).encode().ljust(header_len)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + header_len :])
