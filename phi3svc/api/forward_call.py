"""One call of a model's forward: its arguments, checked, and what it returns besides outputs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

from phi3svc.api.cache import Phi3Cache
from phi3svc.api.forward_pass import HiddenStates, Places, run
from phi3svc.api.outputs import ModelOutput
from phi3svc.api.pretrained import PretrainedModel
from phi3svc.api.rows import Batch, batch_shape, read_batch
from phi3svc.errors import InvalidRequest

Output = TypeVar("Output", bound=ModelOutput)


class ForwardOptions(TypedDict, total=False):
    """What every `forward` also takes, by name.

    output_hidden_states: return them, see `outputs`; return_dict: False for a tuple;
    cache_position (of transformers 4): must be the numbers of the new columns; output_attentions:
    must not be true, for no matrix of scores exists; token_type_ids: ignored, as in transformers.
    """

    output_attentions: bool | None
    output_hidden_states: bool | None
    return_dict: bool | None
    cache_position: Tensor | None
    token_type_ids: Tensor | None


class ForwardCall:
    """One call of a forward: its batch, checked, and what it leaves behind."""

    def __init__(
        self,
        model: PretrainedModel,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: Phi3Cache | None,
        inputs_embeds: Tensor | None,
        use_cache: bool | None,
        options: ForwardOptions,
    ) -> None:
        _check_options(options)
        input_ids, attention_mask = _on_cpu(input_ids), _on_cpu(attention_mask)
        position_ids, inputs_embeds = _on_cpu(position_ids), _on_cpu(inputs_embeds)
        if not isinstance(past_key_values, Phi3Cache | None):
            raise InvalidRequest.of(
                "past_key_values",
                f"is a {type(past_key_values).__name__}; expected a Phi3Cache, or None",
            )
        self._network = model.network
        self._cache = Phi3Cache() if past_key_values is None else past_key_values
        self.shape = batch_shape(input_ids, inputs_embeds, model.config.hidden_size)
        past = self._cache.begin(model.network, self.shape[0])
        _check_cache_position(
            options.get("cache_position"), self._cache.get_seq_length(), self.shape[1]
        )
        self.batch = read_batch(
            model.config,
            self.shape,
            input_ids,
            inputs_embeds,
            attention_mask,
            position_ids,
            self._cache.mask,
            past,
        )
        keeps = model.config.use_cache if use_cache is None else use_cache
        if position_ids is not None and attention_mask is None and past_key_values is None:
            _refuse_packed(self.batch, keeps)
        self.past_key_values = self._cache if keeps else None
        self._hidden = (
            HiddenStates(model.network, self.shape) if options.get("output_hidden_states") else None
        )
        self._return_dict = options.get("return_dict") is not False

    def run(self) -> Iterator[tuple[Tensor, Places]]:
        return run(self._network, self._cache, self.batch, self._hidden)

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        """Complete once all steps were taken."""
        return None if self._hidden is None else self._hidden.states

    def finish(self, output: Output) -> Output:
        """`output`, as a tuple if that was asked for; then it is one whatever its type says."""
        return output if self._return_dict else output.to_tuple()  # type: ignore[return-value]


def _on_cpu(value: Tensor | None) -> Tensor | None:
    """In the CPU's memory, where batches are read. What is no tensor is refused later."""
    return value.cpu() if isinstance(value, Tensor) else value


def _check_options(options: ForwardOptions) -> None:
    unknown = sorted(set(options) - set(ForwardOptions.__annotations__))
    if unknown:
        raise InvalidRequest.of(unknown[0], "not an argument of forward")
    if options.get("output_attentions"):
        raise InvalidRequest.of(
            "output_attentions", "must not be true: no matrix of attention scores exists"
        )
    if not isinstance(options.get("output_hidden_states"), bool | None):
        raise InvalidRequest.of("output_hidden_states", "must be true or false")


def _refuse_packed(batch: Batch, keeps_cache: bool) -> None:
    """Refuse positions that transformers takes for those of several sequences in one row.

    It does where there is neither mask nor cache, and a position is not the one before and 1.
    """
    for row in batch.rows if not keeps_cache else ():
        if any(b - a != 1 for a, b in pairwise(row.positions)):
            raise InvalidRequest.of(
                "position_ids",
                f"row {row.row_idx} is packed of several sequences, as they are not consecutive: "
                "give each a row of its own, or attention_mask if it is one sequence",
            )


def _check_cache_position(cache_position: Any, num_past: int, num_columns: int) -> None:
    if cache_position is None:
        return
    columns = range(num_past, num_past + num_columns)
    if torch.as_tensor(cache_position).tolist() != list(columns):
        raise InvalidRequest.of(
            "cache_position", f"must be {columns.start} to {columns.stop - 1}, the new columns"
        )
