"""Reading a checkpoint's weights, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from phi3svc.config.tensors import FLOAT_DTYPES, TensorInfo, list_tensors
from phi3svc.errors import ConfigError
from phi3svc.model.pages import empty_tensor

Progress = Callable[[int, int], None]
"""Called with (bytes read so far, bytes to read) after each tensor."""


class TensorSource(Protocol):
    """What a network's weights are made of, by the names of today's transformers."""

    def __contains__(self, name: str) -> bool: ...

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """The tensor `name` as a new tensor of `dtype`."""
        ...


class WeightReader:
    """Reads tensors by the names of today's transformers, whatever the checkpoint calls them.

    Older token classifiers say `classifier.*` for `score.*`, and a bare Phi3Model leaves out the
    `model.` prefix. All names, shapes and dtypes are checked here, before the first byte is read;
    a tensor that the network does not use (`rotary_emb.inv_freq`, for one) is left alone, as in
    transformers. Raises ConfigError in one line.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, tuple[int, ...]],
        required: Iterable[str],
        progress: Progress | None = None,
    ) -> None:
        """shapes: of every tensor that the network may use; required: those it cannot do without.

        progress: told after every tensor.
        """
        found = _by_todays_names(path)
        self._tensors: dict[str, TensorInfo] = {}
        for name, shape in shapes.items():
            if name in found:
                _check(found[name], shape)
                self._tensors[name] = found[name]
        check_required(self._tensors, required, str(path))
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        self._total_bytes = sum(tensor.num_bytes for tensor in self._tensors.values())
        self._done_bytes = 0
        self._progress = progress

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """The tensor `name` as a new tensor of `dtype`.

        It is read, not mapped: a file that shrinks meanwhile is then an error and not a crash, and
        the page cache does not count as this process's memory.
        """
        info = self._tensors[name]
        tensor = empty_tensor(info.shape, getattr(torch, FLOAT_DTYPES[info.dtype]))
        into = tensor.view(-1).view(torch.uint8).numpy().data
        done = 0
        try:
            with info.file.open("rb", buffering=0) as stream:
                stream.seek(info.offset)
                while done < len(into):
                    count = stream.readinto(into[done:])
                    if not count:
                        raise ConfigError(f"{info.file}: ends within tensor {name!r}")
                    done += count
        except OSError as error:
            raise ConfigError(f"{info.file}: {error.strerror}") from None
        self._done_bytes += info.num_bytes
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
        return tensor if tensor.dtype == dtype else empty_tensor(info.shape, dtype).copy_(tensor)


def check_required(found: Container[str], required: Iterable[str], where: str) -> None:
    """Raises ConfigError for tensors that the network cannot do without."""
    missing = [name for name in required if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"{where}: tensor {missing[0]!r}{more} missing from the checkpoint")


def layer_name(layer_idx: int, module: str, kind: str = "weight") -> str:
    """kind: "weight" or "bias"."""
    return f"model.layers.{layer_idx}.{module}.{kind}"


def _by_todays_names(path: Path) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for name, tensor in list_tensors(path).items():
        other = found.setdefault(_today(name), tensor)
        if other is not tensor:
            raise ConfigError(f"{path}: tensors {other.name!r} and {name!r} are the same weight")
    return found


def _today(name: str) -> str:
    if name.startswith("classifier."):
        return name.replace("classifier.", "score.", 1)
    if name.startswith(("embed_tokens.", "layers.", "norm.", "final_layernorm.")):
        return f"model.{name}"
    return name


def _check(tensor: TensorInfo, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ConfigError(
            f"{tensor.file}: tensor {tensor.name!r} is {list(tensor.shape)}; "
            f"config.json makes it {list(shape)}"
        )
    if tensor.dtype not in FLOAT_DTYPES:
        raise ConfigError(
            f"{tensor.file}: tensor {tensor.name!r} is {tensor.dtype}; "
            f"expected {', '.join(FLOAT_DTYPES)}"
        )
