"""Files that processes share by locks on them (flock), which end with a process however it ends.

Only regular files that belong to this user, or to root, are opened: whoever else may write to the
folder could otherwise have a process wait for a pipe, or use what they change later.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_own(file: Path, flags: int) -> BinaryIO:
    """Open a file, for its descriptor. flags: of `os.open`. OSError if it is not ours."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid in (0, os.geteuid()):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(f"{file}: not a regular file of this user")


def open_shared(file: Path) -> BinaryIO | None:
    """Open a file with a shared lock; None if it is not there, or was just removed."""
    try:
        stream = open_own(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # An exclusive one is held for moments only, while a file is made or removed.
        fcntl.flock(stream, fcntl.LOCK_SH)
        if is_at(file, stream.fileno()):
            return stream
    except OSError:
        stream.close()
        raise
    stream.close()
    return None


def lock(stream: BinaryIO) -> bool:
    """Take the exclusive lock, if nobody has any."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(file: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(file.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_unused(file: Path) -> bool:
    """Remove a file unless somebody has a lock on it, or it may not be; whether it is gone."""
    try:
        with open_own(file, os.O_RDWR) as stream:  # an exclusive lock over NFS takes leave to write
            if not lock(stream):
                return False
            if is_at(file, stream.fileno()):
                file.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
