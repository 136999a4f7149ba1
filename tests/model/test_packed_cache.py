"""The cache of packed weights: it changes no bit, and nothing that happens to it stops a start."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.model import loader
from phi3svc.model.loader import (
    expected_shapes,
    load_network,
    packed_file_bytes,
    required_names,
)
from phi3svc.model.network import Network
from phi3svc.model.packed_cache import PackedCache
from phi3svc.model.weights import WeightReader
from tests.model.cache_entries import A, disk_of, entries, fill
from tests.model.checkpoints import make_checkpoint
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import all_logits, prefill, random_ids
from tests.model.headers import edit_header
from tests.model.small_checkpoints import make_small_checkpoint

IDS = random_ids(20)
OTHER_BOOT = str(uuid.UUID(int=7))
DTYPES = ("float32", "bfloat16", "int8", "int4", "int4-g32", "int4-g128", "int4-g128-min")
MEMBERS: dict[str, dict[str, Any]] = {
    "untied": {"original": 32},
    "tied": {"tie_word_embeddings": True, "dtype": "bfloat16"},
    "odd sizes": {"hidden_size": 80, "intermediate_size": 100, "head_dim": 32},
    "sequence": {"architecture": "Phi3ForSequenceClassification", "labels": ("a", "b", "c")},
    "token": {"architecture": "Phi3ForTokenClassification", "labels": ("O", "B-X", "I-X")},
}


@pytest.fixture(autouse=True)
def every_size_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MIN_CACHED_BYTES", 0)


@pytest.fixture
def cache(tmp_path: Path) -> PackedCache:
    return PackedCache(tmp_path / "a" / "cache", 1 << 30)


@pytest.fixture
def path(checkpoint: MakeCheckpoint) -> Path:
    return checkpoint()


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it, and reading a weight of a checkpoint is an error from then on."""

    def read(*_: object) -> Tensor:
        raise AssertionError("a weight was read from the checkpoint")

    return lambda: monkeypatch.setattr(WeightReader, "read", read)


@pytest.fixture
def num_bytes(path: Path) -> int:
    """Of the checkpoint's entry."""
    return file_bytes(path, "float32")


def file_bytes(path: Path, format: str) -> int:
    config = Phi3Config.from_dir(path)
    reader = WeightReader(path, expected_shapes(config), required_names(config))
    return packed_file_bytes(config, reader, format)


def outputs(network: Network) -> Tensor:
    h = prefill(network, IDS)
    rows = torch.arange(len(IDS), dtype=torch.int32)
    return (network.logits if "generation" in network.heads else network.scores)(h, rows).clone()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("member", [*MEMBERS, "small", "small classifier"])
def test_cold_cached_and_uncached_are_the_same(
    checkpoint: MakeCheckpoint,
    tmp_path: Path,
    cache: PackedCache,
    no_reading: Callable[[], None],
    member: str,
    dtype: str,
) -> None:
    if member.startswith("small"):
        num_labels = 3 if member == "small classifier" else 0
        path = make_small_checkpoint(tmp_path / "small", num_labels=num_labels)
    else:
        path = checkpoint(**MEMBERS[member])
    expected = outputs(load_network(path, dtype))
    cold = load_network(path, dtype, cache=cache)
    assert outputs(cold).equal(expected)
    no_reading()
    cached = load_network(path, dtype, cache=cache)
    assert outputs(cached).equal(expected)
    assert (cached.format, cached.dtype, cached.heads) == (cold.format, cold.dtype, cold.heads)
    assert len(entries(cache)) == 1


def test_every_weight_begins_where_the_kernels_like_it(path: Path, cache: PackedCache) -> None:
    weights = load_network(path, "bfloat16", cache=cache).weights
    for weight in (weights.norm, weights.lm_head.data, weights.layers[1].down.data):
        assert weight.data_ptr() % 64 == 0


def test_weights_are_nobodys_to_write(path: Path, cache: PackedCache) -> None:
    expected = outputs(load_network(path, cache=cache))
    load_network(path, cache=cache).weights.norm.fill_(7.0)
    assert outputs(load_network(path, cache=cache)).equal(expected)


def test_small_models_are_not_kept(
    path: Path, cache: PackedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    load_network(path, cache=cache)
    assert not cache.folder.exists()


def test_an_entry_is_found_by_what_the_checkpoint_holds(
    path: Path, tmp_path: Path, cache: PackedCache, no_reading: Callable[[], None]
) -> None:
    """Not by where it is; and another format, file time or layout is another entry."""
    load_network(path, cache=cache)
    copy = shutil.copytree(path, tmp_path / "copy")
    weights = copy / "model.safetensors"
    for num_entries, change in enumerate(
        (
            lambda: load_network(copy, "int8", cache=cache),
            lambda: os.utime(weights, ns=(1, 1)),
            lambda: (copy / "tokenizer_config.json").write_text("{}"),
        ),
        start=2,
    ):
        change()
        load_network(copy, cache=cache)
        assert len(entries(cache)) == num_entries
    no_reading()
    load_network(path, cache=cache)
    with pytest.raises(AssertionError, match="was read"):
        load_network(copy, "bfloat16", cache=cache)


@pytest.mark.parametrize("name", ["ops.PACKED_LAYOUT_VERSION", "POLICY_VERSION", "VERSION"])
def test_what_another_version_packed_is_not_used(
    path: Path, cache: PackedCache, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    load_network(path, "int4", cache=cache)
    monkeypatch.setattr(f"phi3svc.model.loader.{name}", 99)
    load_network(path, "int4", cache=cache)
    assert len(entries(cache)) == 2


def test_progress_tells_of_what_is_mapped(path: Path, cache: PackedCache) -> None:
    load_network(path, cache=cache)
    told: list[tuple[int, int]] = []
    load_network(path, progress=lambda *counts: told.append(counts), cache=cache)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {told[-1][0]}
    assert told[-1][0] > 300_000


def test_progress_tells_of_what_another_process_packed(
    path: Path, cache: PackedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited maps it, and a bar that it stopped at 0 comes to its end."""
    load_network(path, cache=cache)
    find, make = PackedCache.find, PackedCache.make
    monkeypatch.setattr(PackedCache, "find", lambda *_: None)

    def wait(cache: PackedCache, key: str, num: int, write: object, on_wait: Any) -> object:
        on_wait()
        monkeypatch.setattr(PackedCache, "find", find)
        return make(cache, key, num, lambda *_: pytest.fail("packed again"), on_wait)

    monkeypatch.setattr(PackedCache, "make", wait)
    told: list[tuple[int, int]] = []
    load_network(path, progress=lambda *counts: told.append(counts), cache=cache)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] > 300_000


# What is wrong with an entry.

ATTACKS: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut short": lambda file: os.truncate(file, file.stat().st_size - 1),
    "cut to the header": lambda file: os.truncate(file, 100),
    "too long": lambda file: os.truncate(file, file.stat().st_size + 64),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "noise": lambda file: file.write_bytes(os.urandom(file.stat().st_size)),
    "no metadata": lambda file: edit_header(file, lambda h: h.pop("__metadata__")),
    "a tensor less": lambda file: edit_header(
        file, lambda h: h.update({"other": h.pop("model.norm.weight")})
    ),
    "another checkpoint's": lambda file: edit_header(
        file,
        lambda h: h["__metadata__"].update(
            {"phi3svc.linears": h["__metadata__"]["phi3svc.linears"].replace("300", "299")}
        ),
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bad_entry_is_made_again(
    path: Path,
    cache: PackedCache,
    attack: str,
    caplog: pytest.LogCaptureFixture,
    no_reading: Callable[[], None],
) -> None:
    expected = outputs(load_network(path, cache=cache))
    (entry,) = entries(cache)
    ATTACKS[attack](entry)
    with caplog.at_level(logging.WARNING, "phi3svc"):
        assert outputs(load_network(path, cache=cache)).equal(expected)
    assert [str(entry) in record.message for record in caplog.records] == [True]
    assert len(entries(cache)) == 1
    no_reading()
    assert outputs(load_network(path, cache=cache)).equal(expected)


def test_what_a_power_failure_may_have_emptied_is_not_used(path: Path, cache: PackedCache) -> None:
    load_network(path, cache=cache)
    (entry,) = entries(cache)
    stale = entry.rename(entry.with_name(f"{entry.stem}.{OTHER_BOOT}.packed"))
    stale.write_bytes(bytes(stale.stat().st_size))
    load_network(path, cache=cache)
    assert entries(cache) == [entry]


# What is wrong with the folder or the disk.


def packs_in_memory(
    path: Path, cache: PackedCache, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It loads all the same, says so in one warning, and leaves nothing behind."""
    with caplog.at_level(logging.WARNING, "phi3svc"):
        network = load_network(path, cache=cache)
    assert outputs(network).equal(outputs(load_network(path)))
    assert [record.message for record in caplog.records] == [
        f"packed weights are not cached in {cache.folder}: {reason}"
    ]
    assert not cache.folder.is_dir() or not any(cache.folder.iterdir())


@pytest.mark.parametrize("num_left", [0, 2, 9])
def test_a_full_disk(
    path: Path,
    cache: PackedCache,
    num_left: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """num_left: for so many pieces there is still room."""
    allocate, num_asked = os.posix_fallocate, 0

    def full(descriptor: int, offset: int, length: int) -> None:
        nonlocal num_asked
        num_asked += 1
        if num_asked > num_left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    packs_in_memory(path, cache, "No space left on device", caplog)


def test_a_file_may_not_be_so_large(
    path: Path, cache: PackedCache, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        packs_in_memory(path, cache, "File too large", caplog)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_folder_that_cannot_be_made(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    packs_in_memory(path, PackedCache(tmp_path / "file/x", 1 << 30), "Not a directory", caplog)


def test_a_file_system_without_locks(
    path: Path,
    cache: PackedCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    cache.folder.mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "phi3svc"):
        load_network(path, cache=cache)
    assert [record.message.endswith("No locks available") for record in caplog.records] == [True]


def test_a_model_larger_than_the_cache(
    path: Path, num_bytes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PackedCache(tmp_path / "cache", 100_000)
    packs_in_memory(path, cache, f"no room for {num_bytes} bytes in a cache of 100000", caplog)


@pytest.mark.parametrize("num_lacking", [0, 1])
def test_half_of_what_is_free_is_left(
    path: Path,
    num_bytes: int,
    cache: PackedCache,
    num_lacking: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    num_free = 2 * num_bytes - num_lacking
    disk_of(num_free, monkeypatch)
    if num_lacking == 0:
        load_network(path, cache=cache)
        assert len(entries(cache)) == 1
    else:
        reason = f"{num_bytes} bytes are more than half of the {num_free} that are free"
        packs_in_memory(path, cache, reason, caplog)


def test_weights_that_keep_more_bits_are_within_the_limits_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where they are more than was said before they were read."""
    path = make_checkpoint(tmp_path / "checkpoint", intermediate_size=512)
    name = "model.layers.1.mlp.down_proj.weight"
    weights = load_file(path / "model.safetensors")
    weights[name][3, 5] = 150 * weights[name].std()
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    num_bytes = file_bytes(path, "int4-g32-min")
    cache = PackedCache(tmp_path / "cache", num_bytes)
    with caplog.at_level(logging.WARNING, "phi3svc"):
        load_network(path, "int4", cache=cache)
    assert [record.message for record in caplog.records] == [
        f"packed weights are not cached in {cache.folder}: "
        f"more than the {num_bytes} bytes that there is room for"
    ]
    assert not any(cache.folder.iterdir())
    load_network(path, "int4", cache=PackedCache(cache.folder, 2 * num_bytes))
    assert entries(cache)[0].stat().st_size > num_bytes


@pytest.mark.parametrize("kind", ["FIFO", "link", "folder"])
def test_an_entry_that_is_no_file(
    path: Path, cache: PackedCache, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for who may write to a pipe."""
    load_network(path, cache=cache)
    (entry,) = entries(cache)
    other = entry.rename(cache.folder / "other")
    make: dict[str, Callable[[], object]] = {
        "FIFO": lambda: os.mkfifo(entry),
        "link": lambda: entry.symlink_to(other),
        "folder": entry.mkdir,
    }
    make[kind]()
    with caplog.at_level(logging.WARNING, "phi3svc"):
        assert outputs(load_network(path, cache=cache)).equal(outputs(load_network(path)))
    assert len(caplog.records) == 1


def test_an_entry_of_another_user_is_not_used(
    path: Path, cache: PackedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who might change it at any time."""
    load_network(path, cache=cache)
    (entry,) = entries(cache)
    fstat = os.fstat

    def of_somebody(descriptor: int) -> os.stat_result:
        status = list(fstat(descriptor))
        status[4] = os.geteuid() + 1
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", of_somebody)
    with pytest.raises(OSError, match="not a regular file of this user"):
        cache.find(entry.stem)


# Several processes.


def run(*children: tuple[object, ...]) -> list[dict[str, Any]]:
    """What `cache_child` printed for each tuple of arguments, all running at once."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.model.cache_child", *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for arguments in children
    ]
    return [json.loads(p.communicate(timeout=120)[0] or "{}") for p in processes]


def test_of_concurrent_starts_one_packs_and_the_others_wait(path: Path, cache: PackedCache) -> None:
    found = run(*3 * [(path, cache.folder, "int8", "slow")], (path, cache.folder, "int4", "slow"))
    assert sorted(child["num_packed"] for child in found[:3]) == [0, 0, 1]
    assert len({child["digest"] for child in found[:3]}) == 1
    assert found[3]["num_packed"] == 1
    assert all(child["warnings"] == [] for child in found)
    assert len(list(cache.folder.iterdir())) == 2


def test_what_a_killed_process_left_is_written_anew(path: Path, cache: PackedCache) -> None:
    assert run((path, cache.folder, "int8", "killed"), (path, cache.folder, "int4", "killed")) == [
        {},
        {},
    ]
    assert {file.suffix for file in cache.folder.iterdir()} == {".partial"}
    expected = outputs(load_network(path, "int8"))
    assert outputs(load_network(path, "int8", cache=cache)).equal(expected)
    assert [file.suffix for file in entries(cache)] == [".packed"]


def test_mapped_weights_keep_their_entry(path: Path, tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, 1_000_000)
    network = load_network(path, cache=cache)
    entries(cache)
    with pytest.raises(OSError, match="no room"):
        fill(cache, A, 800_000)
    expected = all_logits(network, IDS)
    del network
    fill(cache, A, 800_000).stream.close()
    assert [file.stem for file in entries(cache)] == [A]
    assert all_logits(load_network(path), IDS).equal(expected)
