"""How much memory there is, and how models share it for their keys and values."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Bytes this process may still take: what the machine has free, or its cgroup's limit leaves.

    Reads Linux' MemAvailable and, inside a container, the memory controller of cgroup v2.
    """
    available = _meminfo_available()
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # "max" when there is no limit
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return max(0, min(available, limit - used))


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


def _meminfo_available() -> int:
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_MEMINFO} has no MemAvailable")
