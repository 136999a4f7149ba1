"""Weights of a model that was not trained, as transformers initialises them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from phi3svc.config.model import Phi3Config
from phi3svc.model.heads import EMBEDDING


class RandomWeights:
    """A `TensorSource`: normal with deviation `initializer_range`, norms 1, biases 0.

    The pad token's embedding is 0. Numbers come from torch's global generator, in the order in
    which the tensors are read.
    """

    def __init__(
        self,
        config: Phi3Config,
        names: Iterable[str],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._config = config
        self._shapes = {name: shapes[name] for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        shape = self._shapes[name]
        if name.endswith(".bias"):
            return torch.zeros(shape, dtype=dtype)
        if len(shape) == 1:
            return torch.ones(shape, dtype=dtype)
        weight = torch.empty(shape, dtype=dtype).normal_(std=self._config.initializer_range)
        if name == EMBEDDING and self._config.pad_token_id is not None:
            weight[self._config.pad_token_id] = 0
        return weight
