"""What scripts ask of any torch module, for models that are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch import Tensor

from phi3svc.errors import ConfigError
from phi3svc.model.network import Network

_INSTEAD = {
    **dict.fromkeys(
        ("layers", "lm_head", "norm", "score", "get_output_embeddings", "modules", "children"),
        "the network is no tree of modules",
    ),
    **dict.fromkeys(
        ("named_parameters", "state_dict", "load_state_dict", "save_pretrained", "push_to_hub"),
        "weights are packed for this machine; name_or_path is the folder they came from",
    ),
    **dict.fromkeys(
        ("resize_token_embeddings", "gradient_checkpointing_enable", "add_adapter", "zero_grad"),
        "models are for inference; train with transformers",
    ),
}


class Module:
    """A network on the device and in the dtype that it was loaded with, for inference.

    Not a torch.nn.Module: what modules have besides is missing, with a sentence on why.
    """

    network: Network
    training = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; logits and losses are float32 in any."""
        return self.network.dtype

    @property
    def device(self) -> torch.device:
        return self.network.device

    def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        """The weights as they lie in memory, of all heads: matrices packed in panels, with their
        padding. Good for asking their device, dtype and bytes; `num_parameters` counts."""
        tensors = _tensors(self.network.weights)
        yield from {id(tensor): tensor for tensor in tensors}.values()  # tied ones once

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the weights in memory."""
        return sum(tensor.nbytes for tensor in self.parameters())

    def eval(self) -> Self:
        """Does nothing: a model here is always in this mode."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Refuses; train(False) is eval()."""
        if mode:
            raise ConfigError("train(True): models are for inference; train with transformers")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Refuses, but for False, which is what is."""
        return self.train(requires_grad)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The model itself, if it is of that device and dtype already; else ConfigError."""
        for wanted in (*args, *kwargs.values()):
            if isinstance(wanted, torch.dtype):
                if wanted == torch.float16:
                    self.half()
                elif wanted != self.dtype:
                    raise ConfigError(
                        f"to({wanted}): this model is {self.dtype}; load it with dtype={wanted}"
                    )
            elif isinstance(wanted, bool):
                continue  # non_blocking
            elif isinstance(wanted, int | str | torch.device) and not self._is_on(wanted):
                raise ConfigError(
                    f"to({str(wanted)!r}): this model is on {self.device}; load it with "
                    f"device={device_name(wanted)!r}"
                )
        return self

    def cpu(self) -> Self:
        return self.to("cpu")

    def cuda(self, device: int | str | torch.device | None = None) -> Self:
        return self.to("cuda" if device is None else device)

    def _is_on(self, device: int | str | torch.device) -> bool:
        name = device_name(device)
        return name == str(self.device) or name == self.device.type

    def float(self) -> Self:
        return self.to(torch.float32)

    def bfloat16(self) -> Self:
        return self.to(torch.bfloat16)

    def half(self) -> NoReturn:
        raise ConfigError("half(): must be float32, which holds its numbers, or bfloat16")

    if not TYPE_CHECKING:  # or nothing would be a name that it does not have

        def __getattr__(self, name: str) -> NoReturn:
            why = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{why}")


def device_name(device: object) -> str:
    """A device's name, in whatever form scripts give one: 0 is "cuda:0", and -1 the CPU."""
    if isinstance(device, int) and not isinstance(device, bool):
        return "cpu" if device == -1 else f"cuda:{device}"
    name = str(device)
    return "cpu" if name.startswith("cpu:") else name


def _tensors(value: object) -> Iterator[Tensor]:
    """All in a tree of dataclasses and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
