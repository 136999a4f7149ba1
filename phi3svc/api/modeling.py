"""The public model classes: `from_pretrained`, then `forward` on a batch, as in transformers.

Where they differ from transformers on purpose: every row of a batch is a sequence of its own. Its
padding, left or right as `attention_mask` says, is taken off before the network runs, so a row's
result is, bit for bit, what it would be alone; positions count from its first real token; and
LongRoPE's factor set follows the row's own length (transformers takes the padded length of the
longest row for all). Outputs at padded positions are zeros. Logits are float32 in any dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from phi3svc.api.outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from phi3svc.config.checkpoint import resolve_source
from phi3svc.config.model import Phi3Config
from phi3svc.errors import ConfigError, InvalidRequest
from phi3svc.model.inputs import Chunk, ModelInput
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.loader import load_network
from phi3svc.model.phi3 import Head, Phi3Network
from phi3svc.ops import PAGE_SIZE

_STEP_TOKENS = 2048  # bounds the workspaces, not the batch
_LOGIT_ROWS = 256


@dataclass(frozen=True)
class _Row:
    """The real tokens of one row of a batch, and where in the row they begin."""

    row_idx: int
    first: int
    token_ids: list[int]


@dataclass(frozen=True)
class _Step:
    """Hidden states [T, E] of some tokens, and their place (row, column) in the batch, [T] each."""

    h: Tensor
    row_idx: Tensor
    column: Tensor


class _PretrainedModel:
    head: ClassVar[Head | None]

    network: Phi3Network
    name_or_path: str

    @classmethod
    def from_network(cls, network: Phi3Network, name_or_path: str = "") -> Self:
        """A model of this class on a loaded network. name_or_path: the checkpoint's folder."""
        if cls.head is not None and cls.head not in network.heads:
            has = ", ".join(sorted(network.heads)) or "none"
            raise ConfigError(f"{name_or_path}: has no {cls.head} head; its heads: {has}")
        model = cls.__new__(cls)
        model.network = network
        model.name_or_path = name_or_path
        return model

    @classmethod
    def from_pretrained(
        cls, source: str | Path, dtype: str | torch.dtype = "auto", device: str = "cpu"
    ) -> Self:
        """Load a checkpoint.

        source: local folder, embedded model or hub id (`resolve_source`); dtype: "auto" (the
        checkpoint's), "float32" or "bfloat16", or torch's; device: "cpu". Raises ConfigError, also
        when the checkpoint lacks the head of this class: nothing is initialised at random.
        """
        if device != "cpu":
            raise ConfigError(f"device={device!r}: must be cpu")
        path = resolve_source(str(source)).path
        network = load_network(path, str(dtype).removeprefix("torch."))
        return cls.from_network(network, str(path))

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def config(self) -> Phi3Config:
        return self.network.config

    def _run(self, rows: list[_Row]) -> Iterator[_Step]:
        """Run all rows, at most `_STEP_TOKENS` tokens at a time."""
        first_page, tables = 0, {}
        for row in rows:
            num_pages = -(-len(row.token_ids) // PAGE_SIZE)
            tables[row.row_idx] = range(first_page, first_page + num_pages)
            first_page += num_pages
        kv = KVCache(self.config, first_page, self.network.dtype)
        for step in _steps(rows):
            chunks: list[Chunk] = []
            row_idx: list[int] = []
            column: list[int] = []
            for row, span in step:
                chunks.append(
                    Chunk(
                        token_ids=row.token_ids[span.start : span.stop],
                        start=span.start,
                        rope_set=self.config.rope_set(len(row.token_ids)),
                        pages=tables[row.row_idx][: -(-span.stop // PAGE_SIZE)],
                    )
                )
                row_idx += [row.row_idx] * len(span)
                column += range(row.first + span.start, row.first + span.stop)
            h = self.network.forward(ModelInput.pack(chunks), kv)
            yield _Step(h, torch.tensor(row_idx), torch.tensor(column))


class Phi3Model(_PretrainedModel):
    """The decoder without a head."""

    head = None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> BaseModelOutputWithPast:
        """input_ids: [B, S] integers; attention_mask: [B, S], 1 for real tokens. See the module."""
        rows = _rows(input_ids, attention_mask, self.config)
        shape = (*input_ids.shape, self.config.hidden_size)
        out = torch.zeros(shape, dtype=self.network.dtype)
        for step in self._run(rows):
            out[step.row_idx, step.column] = self.network.last_hidden_state(step.h)
        return BaseModelOutputWithPast(last_hidden_state=out)

    __call__ = forward


class Phi3ForCausalLM(_PretrainedModel):
    """The decoder with its language-model head."""

    head = "generation"

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> CausalLMOutputWithPast:
        """input_ids: [B, S] integers; attention_mask: [B, S], 1 for real tokens. See the module."""
        rows = _rows(input_ids, attention_mask, self.config)
        out = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for step in self._run(rows):
            for start in range(0, len(step.h), _LOGIT_ROWS):
                at = torch.arange(start, min(start + _LOGIT_ROWS, len(step.h)), dtype=torch.int32)
                out[step.row_idx[at], step.column[at]] = self.network.logits(step.h, at)
        return CausalLMOutputWithPast(logits=out)

    __call__ = forward


class Phi3ForSequenceClassification(_PretrainedModel):
    """The decoder with one score vector for each sequence."""

    head = "sequence-classification"

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> SequenceClassifierOutputWithPast:
        """Scores of each row's pooled token; `Phi3Config.pooled_token_idx` tells which that is.

        input_ids: [B, S] integers; attention_mask: [B, S], 1 for real tokens, of which every row
        needs one. See the module.
        """
        rows = _rows(input_ids, attention_mask, self.config)
        if len(rows) < input_ids.shape[0]:
            raise InvalidRequest.of("attention_mask", "a row has no real token to pool")
        pooled = torch.tensor(
            [row.first + self.config.pooled_token_idx(row.token_ids) for row in rows]
        )
        out = torch.zeros(input_ids.shape[0], len(self.config.id2label))
        for step in self._run(rows):
            at = torch.nonzero(pooled[step.row_idx] == step.column).flatten()
            if len(at):
                out[step.row_idx[at]] = self.network.scores(step.h, at.int())
        return SequenceClassifierOutputWithPast(logits=out)

    __call__ = forward


class Phi3ForTokenClassification(_PretrainedModel):
    """The decoder with one score vector for each token."""

    head = "token-classification"

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> TokenClassifierOutput:
        """input_ids: [B, S] integers; attention_mask: [B, S], 1 for real tokens. See the module."""
        rows = _rows(input_ids, attention_mask, self.config)
        out = torch.zeros(*input_ids.shape, len(self.config.id2label))
        for step in self._run(rows):
            at = torch.arange(len(step.h), dtype=torch.int32)
            out[step.row_idx, step.column] = self.network.scores(step.h, at)
        return TokenClassifierOutput(logits=out)

    __call__ = forward


def _rows(input_ids: Tensor, attention_mask: Tensor | None, config: Phi3Config) -> list[_Row]:
    """The rows without their padding; a row of nothing but padding is left out."""
    if input_ids.dim() != 2 or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise InvalidRequest.of(
            "input_ids", f"{input_ids.dtype} {list(input_ids.shape)}; expected integers [B, S]"
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if mask.shape != input_ids.shape:
        raise InvalidRequest.of(
            "attention_mask", f"is {list(mask.shape)}; expected {list(input_ids.shape)}"
        )
    rows = []
    for row_idx, (ids, real) in enumerate(zip(input_ids, mask != 0, strict=True)):
        columns = torch.nonzero(real).flatten().tolist()
        if not columns:
            continue
        first, stop = columns[0], columns[-1] + 1
        if stop - first != len(columns):
            raise InvalidRequest.of(
                "attention_mask", f"row {row_idx} has a gap; expected padding at its ends only"
            )
        token_ids = ids[first:stop].tolist()
        if min(token_ids) < 0 or max(token_ids) >= config.vocab_size:
            raise InvalidRequest.of(
                "input_ids", f"row {row_idx} has an id outside 0..{config.vocab_size - 1}"
            )
        rows.append(_Row(row_idx, first, token_ids))
    return rows


def _steps(rows: list[_Row]) -> Iterator[list[tuple[_Row, range]]]:
    """Cut the rows, in order, into steps of at most `_STEP_TOKENS` tokens."""
    step: list[tuple[_Row, range]] = []
    room = _STEP_TOKENS
    for row in rows:
        start = 0
        while start < len(row.token_ids):
            stop = min(start + room, len(row.token_ids))
            step.append((row, range(start, stop)))
            room -= stop - start
            start = stop
            if not room:
                yield step
                step, room = [], _STEP_TOKENS
    if step:
        yield step
