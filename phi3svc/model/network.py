"""What the networks of the family have in common: embedding, heads, workspaces.

A network computes hidden states of packed tokens over paged keys and values, as `model/phi3.py` and
`model/phi3small.py` say, and from hidden states logits or label scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from phi3svc import ops
from phi3svc.config.model import Phi3Config
from phi3svc.model.inputs import ModelInput
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.passes import RecordedPass, RecordedPasses
from phi3svc.model.rope import RopeTables
from phi3svc.ops import PackedLinear

Head = Literal["generation", "sequence-classification", "token-classification"]

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
    shape. Not for two threads at once.

    format: of the linear weights, unless one had to keep more bits; dtype: A, of all others.
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
        self.rope = RopeTables(config.rope)
        self.weights = weights
        self._logit_scale = logit_scale
        self._buffers: dict[str, Tensor] = {}
        self._passes: WeakKeyDictionary[KVCache, RecordedPasses] = WeakKeyDictionary()

    def forward(self, inputs: ModelInput, kv: KVCache) -> Tensor:
        """Run the layers over the packed tokens, writing their keys and values into `kv`.

        Returns h, float32 [T, E], the residual stream before the final norm.
        """
        self.rope.ensure(inputs.num_positions)
        passes = self._passes.setdefault(kv, RecordedPasses())
        recorded = passes.find(inputs.shape, self.rope.table)
        if recorded is None:
            own_inputs, program = ModelInput(inputs.shape), ops.Program()
            with program:
                h = self.compute(own_inputs, kv)
            recorded = RecordedPass(program, own_inputs, self.rope.table, h)
            if own_inputs.is_small:
                passes.keep(recorded)
        return recorded.run(inputs)

    @abstractmethod
    def compute(
        self,
        inputs: ModelInput,
        kv: KVCache,
        embeddings: Tensor | None = None,
        on_layer: OnLayer | None = None,
    ) -> Tensor:
        """What `forward` does, call by call. `rope.table` must hold all positions.

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
        ops.embedding(token_ids, self.weights.embedding, out)
        return out

    def logits(self, h: Tensor, rows: Tensor) -> Tensor:
        """Logits of the tokens after `rows` (int32 [n]) of `h`: float32 [n, V]."""
        weights, eps = self.weights, self.config.rms_norm_eps
        head = weights.lm_head
        if head is None:
            raise ValueError("this network has no generation head")
        normed = self._rows("normed", len(rows), head)
        logits = self._buffer("logits", len(rows), head.out_features, dtype=torch.float32)
        ops.lm_head(
            h,
            rows,
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
        scores = self._buffer("scores", len(rows), head.out_features, dtype=torch.float32)
        ops.classify_head(
            h, rows, weights.norm, eps, head, weights.score_bias, normed, scores, weights.norm_bias
        )
        return scores

    def _rows(self, name: str, num_rows: int, weight: PackedLinear) -> Tensor:
        """The workspace `name` for rows that `weight` is to be multiplied with.

        A [n, k]; of a weight in an integer format, quantized rows.
        """
        if weight.is_integer:
            row_bytes = ops.quantized_row_bytes(weight.in_features)
            return self._buffer(f"quantized {name}", num_rows, row_bytes, dtype=torch.int8)
        return self._buffer(name, num_rows, weight.in_features)

    def _as_rows_of(self, weight: PackedLinear, name: str, x: Tensor) -> Tensor:
        """x, A [n, k], as `weight` is to be multiplied with it: as it is, or quantized."""
        if not weight.is_integer:
            return x
        rows = self._rows(name, len(x), weight)
        ops.quantize(x, rows)
        return rows

    def _buffer(
        self, name: str, num_rows: int, *row_shape: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """The first `num_rows` rows of the workspace `name`, which grows to its largest use."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[0] < num_rows:
            buffer = torch.empty(
                (num_rows, *row_shape), dtype=dtype or self.dtype, device=self.device
            )
            self._buffers[name] = buffer
            for passes in self._passes.values():  # they hold on to the smaller one
                passes.clear()
        return buffer[:num_rows]
