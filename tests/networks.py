"""Networks on the device that is tested."""

from __future__ import annotations

from pathlib import Path

from phi3svc.model import loader
from phi3svc.model.device import find_device
from phi3svc.model.network import Network
from tests.devices import DEVICE


def load_network(path: Path, dtype: str = "auto") -> Network:
    """As `loader.load_network` does."""
    return loader.load_network(path, dtype, device=find_device(DEVICE))
