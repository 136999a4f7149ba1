"""From a checkpoint's folder, or another source of weights, to a network that runs."""

from __future__ import annotations

from pathlib import Path

import torch

from phi3svc.config.model import BYTES_PER_ELEMENT, Phi3Config
from phi3svc.errors import ConfigError
from phi3svc.model import phi3_weights, phi3small_weights
from phi3svc.model.network import Network
from phi3svc.model.phi3 import Phi3Network
from phi3svc.model.phi3small import Phi3SmallNetwork
from phi3svc.model.weights import Progress, TensorSource, WeightReader


def load_network(path: Path, dtype: str = "auto", progress: Progress | None = None) -> Network:
    """Load the checkpoint in folder `path`.

    dtype: "float32", "bfloat16", or "auto" for the config's. One tensor at a time is read,
    converted and packed, so the peak is the packed weights and twice the largest tensor. Raises
    ConfigError in one line.
    """
    config = Phi3Config.from_dir(path)
    if dtype == "auto":
        dtype = config.dtype
    if dtype not in BYTES_PER_ELEMENT:
        raise ConfigError(f"dtype={dtype!r}: must be one of auto, {', '.join(BYTES_PER_ELEMENT)}")
    reader = WeightReader(path, expected_shapes(config), required_names(config), progress)
    return build_network(config, reader, getattr(torch, dtype))


def build_network(config: Phi3Config, source: TensorSource, dtype: torch.dtype) -> Network:
    """The network that `config` describes, of the weights in `source`."""
    if config.small is not None:
        small_weights, heads = phi3small_weights.load_phi3small(config, source, dtype)
        return Phi3SmallNetwork(config, small_weights, heads)
    weights, heads = phi3_weights.load_phi3(config, source, dtype)
    return Phi3Network(config, weights, heads)


def expected_shapes(config: Phi3Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint may hold and the network uses."""
    if config.small is not None:
        return phi3small_weights.expected_shapes(config)
    return phi3_weights.expected_shapes(config)


def required_names(config: Phi3Config) -> list[str]:
    """The tensors without which the network cannot run."""
    if config.small is not None:
        return phi3small_weights.required_names(config)
    return phi3_weights.required_names(config)
