from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.host import split_kv_memory
from phi3svc.engine.memory import available_bytes, free_bytes, share_evenly
from phi3svc.errors import ConfigError
from phi3svc.model import device as device_module
from phi3svc.model.network import Network


@pytest.mark.parametrize(
    ("total", "needs", "shares"),
    [
        (100, [1000], [100]),
        (100, [10, 1000], [10, 90]),
        (100, [1000, 20, 1000], [40, 20, 40]),
        (100, [10, 20], [10, 20]),
        (0, [5, 5], [0, 0]),
    ],
)
def test_shares_are_even_and_none_exceeds_its_need(
    total: int, needs: list[int], shares: list[int]
) -> None:
    assert share_evenly(total, needs) == shares


def machine(
    root: Path, own: str, groups: dict[str, tuple[str, int, int]], mapped_kib: int = 0
) -> Path:
    """A fake /proc and /sys: 8000 KiB available; each group's limit, use and cached files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/status").write_text(f"Name:\tx y\nRssFile:\t{mapped_kib:>8} kB\n")
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\nHugePages: 0\n")
    (root / "proc/self/cgroup").write_text(f"1:cpu:/x\n0::{own}\n")
    for name, (limit, used, cached) in groups.items():
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(
            f"anon {used - cached}\nactive_file 0\ninactive_file {cached}\n"
        )
    return root


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("/", {}, 8000 * 1024),
        ("/", {"": ("max", 100, 0)}, 8000 * 1024),
        ("/", {"": ("5000", 4000, 0)}, 1000),
        ("/", {"": ("5000", 5000, 4500)}, 4500),
        ("/a/b", {"a": ("3000", 1000, 0), "a/b": ("max", 1000, 0)}, 2000),
        ("/", {"": ("100", 200, 0)}, 0),
    ],
    ids=["none", "unlimited", "limited", "full of cached files", "limited above", "over the limit"],
)
def test_a_control_group_limits_what_is_available(
    tmp_path: Path, own: str, groups: dict[str, tuple[str, int, int]], expected: int
) -> None:
    assert available_bytes(machine(tmp_path, own, groups)) == expected


@pytest.mark.parametrize(
    ("mapped_kib", "groups", "expected"),
    [
        (3000, {}, 5000 * 1024),
        (9000, {}, 0),
        (2, {"": ("5000", 5000, 4500)}, 4500 - 2048),
        (8, {"": ("6000", 5000, 4500)}, 1000),  # some of it is in the cache of another group
    ],
)
def test_files_that_are_mapped_do_not_count_as_free(
    tmp_path: Path, mapped_kib: int, groups: dict[str, tuple[str, int, int]], expected: int
) -> None:
    assert available_bytes(machine(tmp_path, "/", groups, mapped_kib)) == expected


def test_a_kernel_may_not_tell_what_is_mapped(tmp_path: Path) -> None:
    """Linux before 4.5 does not, nor do sandboxes; and they have lines of their own."""
    root = machine(tmp_path, "/", {})
    (root / "proc/self/status").write_text("Name:\tx y\n\nx\n7\n")
    assert available_bytes(root) == 8000 * 1024


def test_available_memory_is_positive_and_no_more_than_the_machine_has() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_bytes() <= total


# A CUDA device ------------------------------------------------------------------------------------

BLOCK_BYTES = 16 * 192


def network_on(device: torch.device, workspace_bytes: int) -> Network:
    config = SimpleNamespace(context_len=1 << 20, kv_bytes_per_token=lambda dtype: 192)
    return cast(
        Network,
        SimpleNamespace(
            config=config,
            dtype=torch.bfloat16,
            device=device,
            workspace_bytes=lambda num_tokens, num_sequences: workspace_bytes,
        ),
    )


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """With a thousand blocks' bytes free."""
    monkeypatch.setattr(device_module, "free_device_bytes", lambda device: 1000 * BLOCK_BYTES)
    return torch.device("cuda", 0)


def test_a_devices_memory_is_its_own(cuda: torch.device) -> None:
    assert free_bytes(cuda) == 1000 * BLOCK_BYTES
    assert free_bytes(torch.device("cpu")) > 0


@pytest.mark.parametrize(
    ("config", "num_blocks"),
    [
        (EngineConfig(), 810),  # nine tenths of what the steps leave
        (EngineConfig(kv_memory_share=0.5), 450),
        (EngineConfig(kv_memory_bytes=100 * BLOCK_BYTES), 100),
    ],
)
def test_pages_get_what_weights_and_steps_leave(
    cuda: torch.device, config: EngineConfig, num_blocks: int
) -> None:
    network = network_on(cuda, 100 * BLOCK_BYTES)
    assert split_kv_memory({"m": network}, config) == {"m": num_blocks}


def test_models_of_one_device_share_it(cuda: torch.device) -> None:
    networks = {name: network_on(cuda, 50 * BLOCK_BYTES) for name in "ab"}
    assert split_kv_memory(networks, EngineConfig()) == {"a": 405, "b": 405}


def test_too_little_for_a_block_is_an_error(cuda: torch.device) -> None:
    with pytest.raises(ConfigError, match=r"^engine\.kv_memory_bytes=0: model 'm' gets 2764 bytes"):
        split_kv_memory({"m": network_on(cuda, 999 * BLOCK_BYTES)}, EngineConfig())


STEP = r"engine\.max_step_tokens=2048, engine\.max_sequences=8"


def test_a_step_that_does_not_fit_is_an_error_naming_what_makes_it_large(
    cuda: torch.device,
) -> None:
    networks = {name: network_on(cuda, 500 * BLOCK_BYTES) for name in "ab"}
    with pytest.raises(
        ConfigError,
        match=rf"^{STEP}: must be less: a step takes 3072000 bytes, and cuda:0 has 3072000 free",
    ):
        split_kv_memory(networks, EngineConfig(max_sequences=8))


def test_more_than_steps_leave_is_an_error_naming_their_bytes(cuda: torch.device) -> None:
    config = EngineConfig(kv_memory_bytes=950 * BLOCK_BYTES, max_sequences=8)
    with pytest.raises(
        ConfigError,
        match=rf"must be at most 2764800, the bytes of cuda:0 that 307200 for a step \({STEP}\)"
        " leave, or 0 for 90% of them",
    ):
        split_kv_memory({"m": network_on(cuda, 100 * BLOCK_BYTES)}, config)
