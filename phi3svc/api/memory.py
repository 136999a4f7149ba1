"""Refuses what would not fit, before it is allocated."""

from __future__ import annotations

import torch

from phi3svc.engine.memory import free_bytes
from phi3svc.errors import InvalidRequest

_UNCHECKED = 64 << 20  # so much there always is, and asking takes longer than a small model's step


def require_bytes(
    field: str, num_bytes: int, what: str, device: torch.device | None = None
) -> None:
    """Raise InvalidRequest, naming the argument `field`, if `what` takes more than there is.

    device: whose memory; None for the CPU's.
    """
    if num_bytes <= _UNCHECKED:
        return
    available = free_bytes(device or torch.device("cpu"))
    if num_bytes > available:
        raise InvalidRequest.of(
            field,
            f"{what} would take {num_bytes / 2**30:.1f} GiB; {available / 2**30:.1f} GiB are free",
        )
