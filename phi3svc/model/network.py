"""What the networks of the family have in common: embedding, heads, workspaces.

A network computes hidden states of packed tokens over paged keys and values, as `model/phi3.py` and
`model/phi3small.py` say, and from hidden states logits or label scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.model import Phi3Config
from phi3svc.model.device import StreamOrder, sent
from phi3svc.model.inputs import InputShape, ModelInput, rounded_rows
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.passes import Recorded, RecordedPass
from phi3svc.model.rope import RopeTables
from phi3svc.model.workspaces import Workspaces, with_room
from phi3svc.ops import PackedLinear

Head = Literal["generation", "sequence-classification", "token-classification"]

_MAX_ATTENTION_BYTES = 64 << 20
"""Of workspace; where that is less than what would be of use, attention takes more launches."""

MAX_LOGIT_ROWS = 256
"""Of all the logits that a step is asked for, the engine has so many computed at a time."""

_MAX_PASSES = 64

_RECORDED_BYTES = 128 << 20
"""Of the inputs of all that is recorded, at most a megabyte each."""

OnLayer = Callable[[int, Tensor], None]
"""Called with (number of layers computed, h), from 0; h is good until it returns."""


@dataclass(frozen=True, kw_only=True)
class OuterWeights:
    """What lies before the first layer and behind the last, in the model's dtype.

    Tied: `embedding` and `lm_head` are the same object. norm_bias: None where the norms are RMS
    norms, else they are layer norms. lm_head_bias: -inf for tokens that are never to be generated,
    else 0; None if all may be.
    """

    embedding: Tensor | PackedLinear  # [V, E]
    norm: Tensor  # [E]
    norm_bias: Tensor | None = None  # [E]
    lm_head: PackedLinear | None = None  # [V, E]
    lm_head_bias: Tensor | None = None  # [V]
    score: PackedLinear | None = None  # [C, E]
    score_bias: Tensor | None = None  # [C]


class Network(ABC):
    """Decoder layers and the heads that the checkpoint has.

    Workspaces are kept between calls: what `forward`, `logits` and `scores` return is good until
    the next call of the same method. Passes are recorded, and run again on inputs of the same
    shape. Not for two threads at once, but they may take turns, each with a CUDA stream of its own,
    if every turn begins with `prepare`.

    format: of the linear weights, unless one had to keep more bits; dtype: A, of all others.
    backend: which runs the ops, "cpu" or "cuda". Index tensors that are given may be the CPU's.
    """

    def __init__(
        self,
        config: Phi3Config,
        weights: OuterWeights,
        heads: frozenset[Head],
        format: str,
        logit_scale: float = 1.0,
    ) -> None:
        """logit_scale: what logits are multiplied by."""
        self.config = config
        self.heads = heads
        self.format = format
        self.dtype = weights.norm.dtype
        self.device = weights.norm.device
        self.backend = ops.backend(self.device)
        self.rope = RopeTables(config.rope, self.device)
        self.weights = weights
        self._logit_scale = logit_scale
        self._streams = StreamOrder(self.device)
        self._workspaces = Workspaces(self.dtype, self.device)
        self._table = self.rope.table  # that of all that is recorded
        self._passes: WeakKeyDictionary[KVCache, Recorded[RecordedPass]] = WeakKeyDictionary()

    def prepare(self, num_positions: int = 0) -> None:
        """See that `rope.table` holds so many positions, for what is to be computed next.

        And that this happens behind what was computed before, if that was on another stream of
        torch's; nothing that was recorded there is run again.
        """
        if self._streams.has_changed():
            self._streams.hold(self._shared())
            self._workspaces.clear()
        self.rope.ensure(num_positions)
        if self.rope.table is not self._table:
            self._table = self.rope.table
            self._workspaces.forget()

    def forgets(self, recorded: Recorded[Any]) -> None:
        """Have `recorded` cleared whenever what is recorded can't be run again, or costs memory."""
        self._workspaces.forgets(recorded)

    def forward(self, inputs: ModelInput, kv: KVCache) -> Tensor:
        """Run the layers over the packed tokens, writing their keys and values into `kv`.

        Returns h, float32 [T, E], the residual stream before the final norm.
        """
        self.prepare(inputs.num_positions)
        passes = self._passes.get(kv)
        if passes is None:
            passes = self._passes[kv] = Recorded(_MAX_PASSES)
            self.forgets(passes)
        recorded = passes.find(inputs.shape)
        if recorded is None:
            own_inputs, program = ModelInput(inputs.shape, device=self.device), ops.Program()
            with program:
                own_inputs.send()
                h = self.compute(own_inputs, kv)
            recorded = RecordedPass(program, own_inputs, h)
            if own_inputs.is_small:
                passes.keep(inputs.shape, recorded)
        return recorded.run(inputs)

    @abstractmethod
    def compute(
        self,
        inputs: ModelInput,
        kv: KVCache,
        embeddings: Tensor | None = None,
        on_layer: OnLayer | None = None,
    ) -> Tensor:
        """What `forward` does, call by call. `prepare` comes first.

        embeddings: [T, E], in place of those of the token ids; on_layer: told of each layer's
        outcome. Neither is for a program that is being recorded.
        """

    def last_hidden_state(self, h: Tensor) -> Tensor:
        """The final norm of every row, [T, E] in the model's dtype; a new tensor."""
        out = torch.empty(h.shape, dtype=self.dtype, device=self.device)
        norm, bias, eps = self.weights.norm, self.weights.norm_bias, self.config.rms_norm_eps
        if bias is None:
            ops.rms_norm(h, norm, eps, out)
        else:
            ops.layer_norm(h, norm, bias, eps, out)
        return out

    def embed(self, token_ids: Tensor) -> Tensor:
        """The input embeddings of int32 [n] token ids, as `compute` takes them: float32 [n, E]."""
        out = torch.empty(len(token_ids), self.config.hidden_size, device=self.device)
        ops.embedding(token_ids.to(self.device), self.weights.embedding, out)
        return out

    def logits(self, h: Tensor, rows: Tensor) -> Tensor:
        """Logits of the tokens after `rows` (int32 [n]) of `h`: float32 [n, V]."""
        weights, eps = self.weights, self.config.rms_norm_eps
        head = weights.lm_head
        if head is None:
            raise ValueError("this network has no generation head")
        normed = self._rows("normed", len(rows), head)
        logits = self._workspaces.rows("logits", len(rows), head.out_features, dtype=torch.float32)
        ops.lm_head(
            h,
            sent(rows, self.device),
            weights.norm,
            eps,
            head,
            normed,
            logits,
            weights.norm_bias,
            weights.lm_head_bias,
            self._logit_scale,
        )
        return logits

    def scores(self, h: Tensor, rows: Tensor) -> Tensor:
        """Raw label scores of `rows` (int32 [n]) of `h`: float32 [n, C], before any softmax."""
        weights, eps = self.weights, self.config.rms_norm_eps
        head = weights.score
        if head is None:
            raise ValueError("this network has no classification head")
        normed = self._rows("normed", len(rows), head)
        scores = self._workspaces.rows("scores", len(rows), head.out_features, dtype=torch.float32)
        ops.classify_head(
            h,
            sent(rows, self.device),
            weights.norm,
            eps,
            head,
            weights.score_bias,
            normed,
            scores,
            weights.norm_bias,
        )
        return scores

    def workspace_bytes(self, num_tokens: int, num_sequences: int) -> int:
        """About the most that steps of so many tokens, of so many sequences, need on CUDA."""
        c, a = self.config, self.dtype.itemsize
        heads = c.num_attention_heads * c.head_dim
        per_token = 4 * c.hidden_size + a * (2 * heads + 2 * c.hidden_size + c.intermediate_size)
        num_rows = rounded_rows(max(num_sequences, MAX_LOGIT_ROWS))
        logits = 4 * c.vocab_size
        tables = c.context_len * self.rope.table.shape[0] * 4 * c.rope.rotary_dim
        # Of logits also those changed for sampling, and those of which the likeliest are told.
        # Twice the table: it is copied as it grows.
        return (
            with_room(max(num_tokens, num_rows)) * per_token
            + with_room(num_rows) * logits
            + with_room(num_rows * logits)
            + num_rows * logits
            + 2 * tables
            + _MAX_ATTENTION_BYTES
            + _RECORDED_BYTES
        )

    def sampling_workspace(self, num_rows: int) -> Tensor | None:
        """What `ops.sample` may use for so many rows of logits; None where it needs nothing."""
        if self.backend == "cpu":
            return None
        return self._workspaces.zeroed(
            "sample", ops.sample_workspace_bytes(num_rows, self.config.vocab_size)
        )

    def _attention_workspace(self, shape: InputShape) -> Tensor | None:
        """What `ops.attention` may use for inputs of a shape; None where it needs nothing."""
        if self.backend == "cpu":
            return None
        c = self.config
        sizes = [
            ops.attention_workspace_bytes(t, c.num_attention_heads, c.head_dim, shape.table_len)
            for t in (1, shape.num_tokens)
        ]
        return self._workspaces.zeroed(
            "attention", max(sizes[0], min(sizes[1], _MAX_ATTENTION_BYTES))
        )

    def _rows(self, name: str, num_rows: int, weight: PackedLinear) -> Tensor:
        """The workspace `name` for rows that `weight` is to be multiplied with.

        A [n, k]; of a weight in an integer format, quantized rows.
        """
        if weight.is_integer:
            row_bytes = ops.quantized_row_bytes(weight.in_features)
            return self._workspaces.rows(f"quantized {name}", num_rows, row_bytes, dtype=torch.int8)
        return self._workspaces.rows(name, num_rows, weight.in_features)

    def _as_rows_of(self, weight: PackedLinear, name: str, x: Tensor) -> Tensor:
        """x, A [n, k], as `weight` is to be multiplied with it: as it is, or quantized."""
        if not weight.is_integer:
            return x
        rows = self._rows(name, len(x), weight)
        ops.quantize(x, rows)
        return rows

    def _shared(self) -> Iterator[Tensor]:
        """What is used on one stream after the other, and may be given up on either."""
        yield self.rope.table
        for kv in self._passes:
            for tensor in chain.from_iterable((*kv.layers, *kv.scales)):
                if tensor is not None:
                    yield tensor
