"""What all pipelines share: settings of pipeline and call, inputs one or many, batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from phi3svc.api.modeling import (
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    Phi3ForTokenClassification,
)
from phi3svc.api.pipelines.tokenizer import PipelineTokenizer
from phi3svc.errors import InvalidRequest, UnsupportedTask

MAX_BATCH_SIZE = 1 << 16
MAX_COUNT = (1 << 31) - 1

PipelineModel = Phi3ForCausalLM | Phi3ForSequenceClassification | Phi3ForTokenClassification


class Pipeline(ABC):
    """Call it with an input or many; keyword arguments are settings, of this call or, given when it
    is made, of all.

    A list gives a list of results. A generator, another iterator or a dataset (anything with a
    length and places that is no list) gives an iterator that reads and computes as it is asked.
    batch_size: inputs computed together; results do not depend on it, bit for bit. num_workers is
    taken and ignored: tokenizing costs next to nothing here.
    """

    task: ClassVar[str]
    model_class: ClassVar[type[PipelineModel]]

    def __init__(
        self,
        model: PipelineModel,
        tokenizer: Any = None,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **settings: Any,
    ) -> None:
        """tokenizer: see `PipelineTokenizer.of`. UnsupportedTask for the wrong kind of model."""
        if not isinstance(model, self.model_class):
            raise UnsupportedTask(
                f"a {type(model).__name__} cannot do {self.task}, which takes a phi3svc "
                f"{self.model_class.__name__}"
            )
        self.model = model
        self.tokenizer = PipelineTokenizer.of(tokenizer, model.name_or_path)
        self._batch_size = _checked_batch_size(1 if batch_size is None else batch_size)
        self._given = settings
        self._read_settings(settings)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **settings: Any,
    ) -> Any:
        """Results of `inputs`; see the class. InvalidRequest for an input or setting that is not
        one, and for a text longer than the model's context."""
        read = self._read_settings(self._merge(settings))
        size = self._batch_size if batch_size is None else _checked_batch_size(batch_size)
        if self._is_one(inputs):
            return self._run([inputs], read)[0]
        if isinstance(inputs, (list, tuple)):
            return list(self._stream(inputs, size, read))
        items = _items(inputs)
        if items is None:
            raise InvalidRequest.of("inputs", f"a {type(inputs).__name__}, {self._expected}")
        return self._stream(items, size, read)

    def _merge(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Of a call, on top of the pipeline's own."""
        return {**self._given, **settings}

    def _stream(self, items: Iterable[Any], size: int, settings: Any) -> Iterator[Any]:
        iterator = iter(items)
        while batch := list(islice(iterator, size)):
            yield from self._run(batch, settings)

    _expected: ClassVar[str] = "must be a text, a list of texts, or an iterator over texts"

    def _is_one(self, inputs: Any) -> bool:
        """Whether `inputs` is a single input."""
        return isinstance(inputs, str)

    @abstractmethod
    def _read_settings(self, given: Mapping[str, Any]) -> Any:
        """Keyword arguments, checked. InvalidRequest names one that is unknown or out of range."""

    @abstractmethod
    def _run(self, inputs: list[Any], settings: Any) -> list[Any]:
        """A result for each input."""


def refuse_unknown(given: Collection[str], known: Collection[str]) -> None:
    """InvalidRequest for settings that no pipeline of this kind has."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidRequest.of(
            unknown[0], f"no setting of this pipeline, whose are {', '.join(sorted(known))}"
        )


def read_flag(given: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A truth value; None is the default."""
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest.of(name, f"{value!r}, must be True or False")
    return value


def read_count(
    given: Mapping[str, Any], name: str, low: int = 1, high: int = MAX_COUNT
) -> int | None:
    """A whole number of `low` to `high`, or None."""
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest.of(name, f"{value!r}, must be a whole number of {low} to {high}")
    return value


def pad_rows(
    rows: list[list[int]], pad_token_id: int | None, on_left: bool = False
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64 [B, S] both, of rows made equally long."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_token_id or 0)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if on_left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.int64)
        mask[i, place] = 1
    return ids, mask


def _items(inputs: Any) -> Iterable[Any] | None:
    if isinstance(inputs, (Mapping, bytes)):
        return None
    if isinstance(inputs, Sized) and (item_at := getattr(inputs, "__getitem__", None)):
        return map(item_at, range(len(inputs)))
    return inputs if isinstance(inputs, Iterable) else None


def _checked_batch_size(value: int) -> int:
    size = read_count({"batch_size": value}, "batch_size", high=MAX_BATCH_SIZE)
    assert size is not None  # None is no argument here
    return size
