"""What the model classes return: like transformers' `ModelOutput`, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from phi3svc.api.cache import Phi3Cache


class ModelOutput:
    """Base of the outputs, which are dataclasses most of whose fields may be None.

    A field is an attribute, a key (`out["logits"]`) and a place (`out[0]`, `out[:2]`). As keys and
    places only those exist that are not None; iterating gives keys, and `to_tuple()` the values.
    """

    def keys(self) -> list[str]:
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        return [value for _, value in self.items()]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values of the fields that are not None, in the order of the fields."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return [(name, value) for name, value in named if value is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    def get(self, key: str, default: Any = None) -> Any:
        return dict(self.items()).get(key, default)

    def __getitem__(self, key: str | int | slice) -> Any:
        """KeyError or IndexError where there is no such field, or it is None."""
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.items())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


Output = TypeVar("Output", bound=ModelOutput)


def moved(output: Tensor | Output, device: torch.device) -> Tensor | Output:
    """The same on a device: a tensor, or an output with all its tensors."""
    if isinstance(output, Tensor):
        return output.to(device)
    for name, value in output.items():
        setattr(output, name, _moved(value, device))
    return output


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value.to(device) if isinstance(value, Tensor) else value


@dataclass(kw_only=True)
class BaseModelOutputWithPast(ModelOutput):
    """last_hidden_state: after the final norm, [B, S, E] in the model's dtype.

    hidden_states: L + 1 of that shape: the embeddings, then what each layer adds up to; the last
    one is last_hidden_state. attentions: always None, as in all of these: no scores are kept.
    """

    last_hidden_state: Tensor
    past_key_values: Phi3Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: None = None


@dataclass(kw_only=True)
class CausalLMOutputWithPast(ModelOutput):
    """loss: float32, a scalar; logits: float32 [B, S, V], or fewer columns by `logits_to_keep`."""

    loss: Tensor | None = None
    logits: Tensor
    past_key_values: Phi3Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: None = None


@dataclass(kw_only=True)
class SequenceClassifierOutputWithPast(ModelOutput):
    """loss: float32, a scalar; logits: float32 [B, C], before any softmax."""

    loss: Tensor | None = None
    logits: Tensor
    past_key_values: Phi3Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: None = None


@dataclass(kw_only=True)
class TokenClassifierOutput(ModelOutput):
    """loss: float32, a scalar; logits: float32 [B, S, C], before any softmax."""

    loss: Tensor | None = None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: None = None
