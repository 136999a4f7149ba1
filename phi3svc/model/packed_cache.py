"""Packed weights that are kept on the disk for the next start.

An entry is a file of `model/packed_format.py`. Its name begins with its key; what follows is

    .packed         it is there for good
    .BOOT.packed    it may not have reached the disk, and is good until this boot of the machine
                    ends: a power failure would leave zeros in it
    .partial        it is being written

Processes find together by locks on these files (flock), which end with them however they end. Who
writes holds an exclusive one, so that a second one waits for the first and uses what that one made.
Who uses an entry holds a shared one for as long as its weights are mapped, so that none is removed
meanwhile. Every failure is an OSError, after which a caller does without.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from phi3svc.config.engine import EngineConfig

logger = logging.getLogger(__name__)

_POLL_S = 0.05


@dataclass(frozen=True)
class Entry:
    """An entry that is there, open and locked against removal for as long as `stream` is open.

    So it stays when the stream is mapped into memory, until the mapping goes.
    """

    file: Path
    stream: BinaryIO


@dataclass(frozen=True)
class PackedCache:
    """The entries in `folder`, which is made when the first one is.

    max_bytes: of all entries; those not used for longest go first.
    """

    folder: Path
    max_bytes: int

    @classmethod
    def of(cls, config: EngineConfig) -> PackedCache | None:
        """The one that the settings name, or None."""
        folder = config.packed_cache_folder
        return None if folder is None else cls(folder, config.packed_cache_bytes)

    def find(self, key: str) -> Entry | None:
        """The entry of that key, or None."""
        durable, fresh = self._files(key)
        for file in (durable, fresh):
            stream = _open_shared(file)
            if stream is None:
                continue
            with contextlib.suppress(OSError):  # where the folder may only be read
                os.utime(file)  # when it was last used
            if file == fresh:
                _sync_in_background(os.dup(stream.fileno()), fresh, durable)
            return Entry(file, stream)
        return None

    def make(
        self,
        key: str,
        num_bytes: int,
        write: Callable[[int], None],
        on_wait: Callable[[], None],
    ) -> Entry:
        """The entry of that key, filled by `write` unless another process is doing that just now.

        num_bytes: about how large it will be. write: is given the descriptor of an empty file.
        on_wait: called again and again while it waits for the other process.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.folder / f"{key}.partial"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        entry = None
        while entry is None:
            with os.fdopen(os.open(partial, flags, 0o600), "r+b", buffering=0) as stream:
                while not _lock(stream) and _is_at(partial, stream):
                    on_wait()
                    time.sleep(_POLL_S)
                if _is_at(partial, stream):
                    self._fill(key, num_bytes, write, partial, stream)
                # Whoever wrote it, it is an entry now, unless something went wrong there.
                fcntl.flock(stream, fcntl.LOCK_SH)
                entry = self.find(key)
        return entry

    def remove(self, key: str) -> None:
        """Remove an entry that turned out to be bad, whoever uses it."""
        for file in self._files(key):
            file.unlink(missing_ok=True)

    def _files(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.packed", self.folder / f"{key}.{_boot_id()}.packed"

    def _fill(
        self,
        key: str,
        num_bytes: int,
        write: Callable[[int], None],
        partial: Path,
        stream: BinaryIO,
    ) -> None:
        """partial: new, or left by a process that was killed; `stream` has its exclusive lock."""
        try:
            made = self.find(key)  # just before the lock was ours
            if made is not None:
                made.stream.close()
                partial.unlink()
                return
            self._make_room(num_bytes, partial)
            os.ftruncate(stream.fileno(), 0)
            write(stream.fileno())
            partial.rename(self._files(key)[1])
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _make_room(self, num_bytes: int, partial: Path) -> None:
        """Remove what killed processes and other boots left, and the entries used longest ago.

        OSError if there is no room for `num_bytes` even so, or if it would take more than half of
        what is free on the disk. partial: what is to take the room.
        """
        total = num_bytes
        entries = []
        for file in self.folder.iterdir():
            if file.suffix == ".partial" and file != partial:
                _remove_unused(file)
            elif file.suffix == ".packed":
                boot_id = file.name.split(".")[1]
                if boot_id in ("packed", _boot_id()) or not _remove_unused(file):
                    with contextlib.suppress(FileNotFoundError):
                        status = file.stat()
                        entries.append((status.st_mtime_ns, status.st_size, file))
                        total += status.st_size
        for _, size, file in sorted(entries):
            if total <= self.max_bytes:
                return
            if _remove_unused(file):
                logger.info("removed %s: the cache of packed weights is full", file)
                total -= size
        if total > self.max_bytes:
            raise OSError(f"no room for {num_bytes} bytes in a cache of {self.max_bytes}")
        free_bytes = shutil.disk_usage(self.folder).free
        if num_bytes > free_bytes // 2:
            raise OSError(f"{num_bytes} bytes are more than half of the {free_bytes} that are free")


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _lock(stream: BinaryIO) -> bool:
    """Take the exclusive lock, if nobody has any."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_shared(file: Path) -> BinaryIO | None:
    """Open an entry with a shared lock; None if it is not there, or was just removed."""
    try:
        stream = os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        return None
    try:
        # An exclusive one is held for moments only, while an entry is made or removed.
        fcntl.flock(stream, fcntl.LOCK_SH)
        if _is_at(file, stream):
            return stream
    except OSError:
        stream.close()
        raise
    stream.close()
    return None


def _is_at(file: Path, stream: BinaryIO) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _remove_unused(file: Path) -> bool:
    """Remove a file unless somebody has a lock on it; whether it is gone."""
    try:
        with file.open("r+b") as stream:  # an exclusive lock over NFS takes leave to write
            if not _lock(stream):
                return False
            if _is_at(file, stream):
                file.unlink()
    except FileNotFoundError:
        pass
    return True


def _sync_in_background(descriptor: int, fresh: Path, durable: Path) -> None:
    """Give an entry the name of those that are on the disk, once it is."""

    def sync() -> None:
        try:
            os.fdatasync(descriptor)
            with contextlib.suppress(FileNotFoundError):  # another process did the same
                fresh.rename(durable)
        except OSError as error:
            logger.info("%s: not written to the disk: %s", fresh, error.strerror)
        finally:
            os.close(descriptor)

    threading.Thread(target=sync, name="packed-cache-sync", daemon=True).start()
