"""How much memory there is, and how models share it for their keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes this process may still take: what the machine has, or less where a cgroup limits it.

    Reads Linux' MemAvailable and the memory controllers (cgroup v2) above this process. As in
    MemAvailable, cached files count as free: else reading a checkpoint would seem to use it up. Not
    so those that this process has mapped, the weights. root: where /proc and /sys are.
    """
    mapped = _fields(root / "proc/self/status").get("RssFile:", 0) * 1024
    available = _fields(root / "proc/meminfo")["MemAvailable:"] * 1024 - mapped
    for folder in _cgroups(root):
        try:
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            stat = _fields(folder / "memory.stat")
        except (OSError, ValueError):  # no controller here, or "max": no limit
            continue
        cached = stat.get("active_file", 0) + stat.get("inactive_file", 0)
        available = min(available, limit - used + max(0, cached - mapped))
    return max(0, available)


def free_bytes(device: torch.device) -> int:
    """Bytes of a device's memory that tensors may still take."""
    if device.type != "cuda":
        return available_bytes()
    # Here and not above: torch takes seconds, and who asks for the CPU's memory may do without it.
    from phi3svc.model.device import free_device_bytes

    return free_device_bytes(device)


def share_evenly(total: int, needs: list[int]) -> list[int]:
    """Split `total` among takers: equal shares, and none gets more than it needs.

    What one leaves over goes to the others.
    """
    shares = [0] * len(needs)
    num_left = len(needs)
    for index in sorted(range(len(needs)), key=needs.__getitem__):
        shares[index] = min(needs[index], total // num_left)
        total -= shares[index]
        num_left -= 1
    return shares


def _cgroups(root: Path) -> Iterator[Path]:
    """This process's control group and those above it; a container sees only its own."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::/"):
            folder = mount / line.removeprefix("0::/")
            yield folder
            while folder != mount:
                folder = folder.parent
                yield folder


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number; others are left out."""
    pairs = (line.split()[:2] for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
