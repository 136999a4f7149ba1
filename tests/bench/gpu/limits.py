"""What the device can do, measured in the same run: bytes and matrix operations per second."""

from __future__ import annotations

import torch

from tests.bench.gpu.timing import median_seconds


def read_bandwidth(device: torch.device, num_bytes: int = 4 << 30) -> float:
    """Bytes per second of reading: a sum over float32, which writes next to nothing."""
    data = torch.ones(num_bytes // 4, device=device)
    return num_bytes / median_seconds(data.sum, device)


def copy_bandwidth(device: torch.device, num_bytes: int = 2 << 30) -> float:
    """Bytes per second of a copy on the device, those read and those written both counted."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / median_seconds(lambda: target.copy_(source), device)


def matrix_rate(device: torch.device, size: int = 8192) -> float:
    """bfloat16 operations per second of torch's product of random square matrices."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / median_seconds(lambda: torch.mm(a, b, out=out), device)
