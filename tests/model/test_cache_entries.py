"""What processes do to each other's entries of the cache, and to the disk that they are on."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from phi3svc.model.packed_cache import PackedCache
from tests.model.cache_entries import A, B, C, D, disk_of, entries, fill


def test_who_waited_is_served_while_the_maker_still_uses_it(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, 1000)
    is_writing, is_awaited = threading.Event(), threading.Event()

    def write(descriptor: int, _: int) -> None:
        os.posix_fallocate(descriptor, 0, 10)
        is_writing.set()
        assert is_awaited.wait(10)

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(cache.make, A, 10, write, lambda: None)
        assert is_writing.wait(10)
        waited = cache.make(A, 10, lambda *_: pytest.fail("written twice"), is_awaited.set)
        with made.result(10).stream as theirs, waited.stream as ours:
            assert os.path.sameopenfile(theirs.fileno(), ours.fileno())


def test_an_entry_that_is_removed_while_it_is_opened_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PackedCache(tmp_path, 1000)
    fill(cache, A, 10).stream.close()
    entries(cache)
    flock = fcntl.flock

    def remove_first(stream: BinaryIO, operation: int) -> None:
        cache.remove(A)
        flock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    assert cache.find(A) is None


def test_what_a_killed_process_wrote_is_not_there_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes no room."""
    (tmp_path / f"{A}.partial").write_bytes(bytes(100))
    disk_of(100, monkeypatch, tmp_path)

    def write(descriptor: int, max_bytes: int) -> None:
        assert os.fstat(descriptor).st_size == 0
        assert max_bytes == 50

    PackedCache(tmp_path, 1000).make(A, 10, write, lambda: None).stream.close()


def test_an_entry_is_for_this_boot_only_until_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PackedCache(tmp_path, 1000)
    is_on_disk, fdatasync = threading.Event(), os.fdatasync

    def wait(descriptor: int) -> None:
        assert is_on_disk.wait(10)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", wait)
    for _ in range(2):
        fill(cache, A, 10).stream.close()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert [file.name for file in tmp_path.iterdir()] == [f"{A}.{boot_id}.packed"]
    is_on_disk.set()
    assert [file.name for file in entries(cache)] == [f"{A}.packed"]


def test_an_entry_that_is_made_again_waits_for_its_own_way_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PackedCache(tmp_path, 1000)
    num_synced, close = 0, os.close
    has_begun, may_go_on, is_done, is_closed = (threading.Event() for _ in range(4))

    def sync(_: int) -> None:
        nonlocal num_synced
        num_synced += 1
        if num_synced == 1:
            has_begun.set()
            assert may_go_on.wait(10)
            is_done.set()
        else:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def tell(descriptor: int) -> None:
        close(descriptor)
        if is_done.is_set():
            is_closed.set()

    monkeypatch.setattr(os, "fdatasync", sync)
    fill(cache, A, 10).stream.close()
    assert has_begun.wait(10)
    cache.remove(A)
    fill(cache, A, 10).stream.close()
    monkeypatch.setattr(os, "close", tell)
    may_go_on.set()
    assert is_closed.wait(10)
    assert [file.name.count(".") for file in tmp_path.iterdir()] == [2]


def test_a_bad_entry_that_comes_to_the_disk_while_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PackedCache(tmp_path, 1000)
    fill(cache, A, 10).stream.close()
    (durable,) = entries(cache)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    fresh = durable.rename(tmp_path / f"{A}.{boot_id}.packed")
    unlink = Path.unlink

    def unlink_and_sync(file: Path, missing_ok: bool = False) -> None:
        unlink(file, missing_ok)
        if fresh.exists():
            fresh.rename(durable)

    monkeypatch.setattr(Path, "unlink", unlink_and_sync)
    cache.remove(A)
    assert not list(tmp_path.iterdir())


def test_no_thread_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry is good until this boot ends, and no descriptor stays open."""

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    num_open = len(os.listdir("/proc/self/fd"))
    fill(PackedCache(tmp_path, 1000), A, 10).stream.close()
    assert len(os.listdir("/proc/self/fd")) == num_open
    assert [file.name.count(".") for file in tmp_path.iterdir()] == [2]


# How much is kept.


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, 1000)
    for i, key in enumerate((A, B, C)):
        fill(cache, key, 300).stream.close()
        os.utime(entries(cache)[i], (i, i))
    found = cache.find(A)
    assert found is not None
    found.stream.close()
    fill(cache, D, 400).stream.close()
    assert [file.stem for file in entries(cache)] == [A, C, D]


def test_a_full_disk_has_room_for_what_is_used_more_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it is left, whatever the cache may hold, and none is removed in vain."""
    cache = PackedCache(tmp_path, 10_000)
    for i, key in enumerate((A, B)):
        fill(cache, key, 300).stream.close()
        os.utime(entries(cache)[i], (i, i))
    disk_of(1000, monkeypatch, tmp_path)
    with pytest.raises(OSError, match="501 bytes are more than half of the 400 that are free"):
        fill(cache, C, 501)
    assert [file.stem for file in entries(cache)] == [A, B]
    fill(cache, C, 201).stream.close()
    assert [file.stem for file in entries(cache)] == [B, C]


def test_none_is_removed_for_what_the_cache_cannot_hold(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, 1000)
    fill(cache, A, 300).stream.close()
    with pytest.raises(OSError, match="no room for 1001 bytes"):
        fill(cache, B, 1001)
    assert [file.stem for file in entries(cache)] == [A]


def test_what_others_write_just_now_counts(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, 1000)

    def write(descriptor: int, max_bytes: int) -> None:
        assert max_bytes == 1000
        os.posix_fallocate(descriptor, 0, 600)
        with pytest.raises(OSError, match="no room for 401 bytes"):
            fill(cache, B, 401)

    cache.make(A, 600, write, lambda: None).stream.close()
    assert [file.stem for file in entries(cache)] == [A]


FOREIGN = ("notes.partial", "a.b.packed", "X.packed", f"{A}.packed.old", f"{A}.another-boot.packed")


def test_files_of_others_stay(tmp_path: Path) -> None:
    """In a folder that one names there may be anything."""
    cache = PackedCache(tmp_path, 1000)
    fill(cache, B, 900).stream.close()
    entries(cache)
    for name in FOREIGN:
        (tmp_path / name).write_bytes(bytes(5000))
    (tmp_path / "x.partial").mkdir()
    fill(cache, C, 900).stream.close()
    assert {file.name for file in tmp_path.iterdir()} >= {*FOREIGN, "x.partial"}
    assert cache.find(B) is None


def test_what_cannot_be_removed_is_no_reason_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PackedCache(tmp_path, 1000)
    for key in (A, B):
        fill(cache, key, 300).stream.close()
    os.utime(entries(cache)[0], (0, 0))
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / f"{C}.partial").symlink_to("theirs")
    (tmp_path / f"{D}.partial").mkdir()
    open_file = os.open

    def open_unless_denied(path: Any, flags: int, *mode: int) -> int:
        if os.path.basename(path) == f"{A}.packed" and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_file(path, flags, *mode)

    monkeypatch.setattr(os, "open", open_unless_denied)
    fill(cache, "e" * 64, 600).stream.close()
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert cache.find(B) is None
    kept = cache.find(A)
    assert kept is not None
    kept.stream.close()


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, 1000)
    with fill(cache, A, 500).stream, fill(cache, B, 500).stream:
        entries(cache)
        with pytest.raises(OSError, match="no room for 100 bytes in a cache of 1000"):
            fill(cache, C, 100)
    fill(cache, C, 100).stream.close()
    assert len(entries(cache)) == 2
