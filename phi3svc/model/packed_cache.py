"""Packed weights that are kept on the disk for the next start.

An entry is a file of `model/packed_format.py`. Its name begins with its key, 64 hex digits; what
follows is

    .packed         it is there for good
    .BOOT.packed    it may not have reached the disk, and is good until this boot of the machine
                    ends: a power failure would leave zeros in it
    .partial        it is being written

Processes find together by locks on these files (`model/locked_files.py`). Who writes holds an
exclusive one, so that a second one waits for the first and uses what that one made. Who uses an
entry holds a shared one for as long as its weights are mapped, so that none is removed meanwhile.
Files of other names in the folder are somebody else's. Every failure is an OSError, after which a
caller does without.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from phi3svc.config.engine import EngineConfig
from phi3svc.model.locked_files import is_at, lock, open_own, open_shared, remove_unused

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_NAME = re.compile(r"[0-9a-f]{64}(\.(?P<boot>[0-9a-f-]{36}))?\.(?P<kind>packed|partial)")


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
            stream = open_shared(file)
            if stream is None:
                continue
            with contextlib.suppress(OSError):  # where the folder may only be read
                os.utime(stream.fileno())  # when it was last used
            if file == fresh:
                _sync_in_background(os.dup(stream.fileno()), fresh, durable)
            return Entry(file, stream)
        return None

    def make(
        self,
        key: str,
        num_bytes: int,
        write: Callable[[int, int], None],
        on_wait: Callable[[], None],
    ) -> Entry:
        """The entry of that key, filled by `write` unless another process is doing that just now.

        num_bytes: about how large it will be. write: is given the descriptor of an empty file, and
        how large it may be at most. on_wait: called again and again while it waits for the other
        process.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.folder / f"{key}.partial"
        entry = None
        while entry is None:
            with open_own(partial, os.O_RDWR | os.O_CREAT) as stream:
                while not lock(stream) and is_at(partial, stream.fileno()):
                    on_wait()
                    time.sleep(_POLL_S)
                if is_at(partial, stream.fileno()):
                    self._fill(key, num_bytes, write, partial, stream)
                # Whoever wrote it, it is an entry now, unless something went wrong there.
                fcntl.flock(stream, fcntl.LOCK_SH)
                entry = self.find(key)
        return entry

    def remove(self, key: str) -> None:
        """Remove an entry that turned out to be bad, whoever uses it."""
        # In this order, as it may get the other name meanwhile: `_sync_in_background`.
        for file in reversed(self._files(key)):
            file.unlink(missing_ok=True)

    def _files(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.packed", self.folder / f"{key}.{_boot_id()}.packed"

    def _fill(
        self,
        key: str,
        num_bytes: int,
        write: Callable[[int, int], None],
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
            os.ftruncate(stream.fileno(), 0)  # first, as it may take much of the disk
            write(stream.fileno(), self._make_room(num_bytes, partial))
            partial.rename(self._files(key)[1])
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _make_room(self, num_bytes: int, partial: Path) -> int:
        """Remove what killed processes and other boots left, and the entries used longest ago.

        Returns how many bytes there is room for then: in the cache, and in half of what is free on
        the disk. OSError if these are fewer than `num_bytes`. partial: what is to take the room.
        """
        total, entries = self._take_stock(partial)
        removable_bytes = sum(size for _, size, _ in entries)
        # None goes in vain.
        if num_bytes <= min(
            self.max_bytes - total + removable_bytes, (self._free_bytes() + removable_bytes) // 2
        ):
            for _, size, file in sorted(entries):
                if num_bytes <= min(self.max_bytes - total, self._free_bytes() // 2):
                    break
                if remove_unused(file):
                    logger.info("removed %s: there is no room for it beside a new one", file)
                    total -= size
        if num_bytes > self.max_bytes - total:
            raise OSError(f"no room for {num_bytes} bytes in a cache of {self.max_bytes}")
        free_bytes = self._free_bytes()
        if num_bytes > free_bytes // 2:
            raise OSError(f"{num_bytes} bytes are more than half of the {free_bytes} that are free")
        return min(self.max_bytes - total, free_bytes // 2)

    def _take_stock(self, partial: Path) -> tuple[int, list[tuple[int, int, Path]]]:
        """Bytes of all files but `partial`, and (time of use, bytes, file) of the entries.

        Removes what killed processes and other boots left. What other processes are writing just
        now has its full size from the beginning.
        """
        total, entries = 0, []
        for file in self.folder.iterdir():
            name = _NAME.fullmatch(file.name)
            if name is None or file == partial:
                continue
            is_entry = name["kind"] == "packed" and name["boot"] in (None, _boot_id())
            if not is_entry and remove_unused(file):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = file.lstat()
                if stat.S_ISREG(status.st_mode):
                    total += status.st_size
                    if is_entry:
                        entries.append((status.st_mtime_ns, status.st_size, file))
        return total, entries

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _sync_in_background(descriptor: int, fresh: Path, durable: Path) -> None:
    """Give an entry the name of those that are on the disk, once it is. descriptor: is closed."""

    def sync() -> None:
        try:
            os.fdatasync(descriptor)
            # Unless it was removed, and perhaps made again, which is not on the disk then; or
            # another process did the same.
            if is_at(fresh, descriptor):
                with contextlib.suppress(FileNotFoundError):
                    fresh.rename(durable)
        except OSError as error:
            logger.info("%s: not written to the disk: %s", fresh, error.strerror)
        finally:
            os.close(descriptor)

    try:
        threading.Thread(target=sync, name="packed-cache-sync", daemon=True).start()
    except RuntimeError:  # no thread to be had: it stays good until this boot ends
        os.close(descriptor)
