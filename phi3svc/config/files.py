"""Opens and reads files of checkpoints: regular ones only, bounded, and every failure one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from phi3svc.errors import ConfigError


def open_file(file: Path) -> BinaryIO:
    """Open `file` for reading. ConfigError unless it is a regular file that may be read."""
    try:
        # Non-blocking, because opening a pipe would wait for somebody to write to it.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{file}: not a regular file")
    return os.fdopen(descriptor, "rb")


def read_file(file: Path, max_bytes: int) -> bytes:
    """All of `file`. ConfigError unless it is a regular file of at most `max_bytes`."""
    try:
        with open_file(file) as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    if len(data) > max_bytes:
        raise ConfigError(f"{file}: larger than {max_bytes} bytes")
    return data
