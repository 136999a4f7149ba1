"""Phi-3-small again, plainly: one sequence, a dense mask, float64 or for comparison less.

From phi3-spec §5, and from Microsoft's files that it cites; it shares no line with the package.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

NEVER_GENERATED_IDS = {100256, 100258, 100259, 100260, 100264, 100265, *range(100267, 100352)}
"""Ids that are never generated."""


class SmallOracle:
    """A checkpoint, all of whose numbers are of `dtype`."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype
        self.config: dict[str, Any] = json.loads((path / "config.json").read_text())
        self.weights = {k: v.to(dtype) for k, v in load_file(path / "model.safetensors").items()}

    def hidden(self, token_ids: list[int]) -> Tensor:
        """After the final norm, [S, E]."""
        c = self.config
        h = self.weights["model.embed_tokens.weight"][token_ids]
        h = h * c["mup_embedding_multiplier"]
        for i in range(c["num_hidden_layers"]):
            name = f"model.layers.{i}"
            h = h + self._attention(i, self._norm(f"{name}.input_layernorm", h))
            x = self._linear(
                f"{name}.mlp.up_proj", self._norm(f"{name}.post_attention_layernorm", h)
            )
            h = h + self._linear(f"{name}.mlp.down_proj", gegelu(x, c["gegelu_limit"]))
        return self._norm("model.final_layernorm", h)

    def logits(self, token_ids: list[int]) -> Tensor:
        logits = self.hidden(token_ids) @ self.weights["model.embed_tokens.weight"].T
        logits = logits / self.config["mup_width_multiplier"]
        forbidden = [i for i in NEVER_GENERATED_IDS if i < logits.shape[1]]
        logits[:, forbidden] = -math.inf
        return logits.float()

    def greedy(self, token_ids: list[int], num_tokens: int) -> list[int]:
        """The likeliest tokens behind a prompt, each from a computation of everything before it."""
        ids = list(token_ids)
        for _ in range(num_tokens):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[len(token_ids) :]

    def scores(self, token_ids: list[int]) -> Tensor:
        return (self.hidden(token_ids) @ self.weights["score.weight"].T).float()

    def _norm(self, name: str, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.square().mean(-1, keepdim=True)
        unit = centered / (variance + self.config["layer_norm_epsilon"]).sqrt()
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _attention(self, layer_idx: int, x: Tensor) -> Tensor:
        c = self.config
        num_heads, num_kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        head_dim = c["hidden_size"] // num_heads
        group = num_heads // num_kv_heads
        name = f"model.layers.{layer_idx}.self_attn"
        mixed = self._linear(f"{name}.query_key_value", x)
        heads = mixed.view(len(x), num_kv_heads, group + 2, head_dim)
        is_dense = bool(c["dense_attention_every_n_layers"]) and (
            (layer_idx + 1) % c["dense_attention_every_n_layers"] == 0
        )
        scale = head_dim**-0.5
        if c["mup_use_scaling"]:
            scale = c["mup_attn_multiplier"] / head_dim
        cos, sin = self._rope(len(x), head_dim)
        outputs = []
        for head in range(num_heads):
            part = heads[:, head // group]
            q = rotate(part[:, head % group], cos, sin)
            k = rotate(part[:, group], cos, sin)
            scores = q @ k.T * scale
            visible = torch.ones(len(x), len(x), dtype=torch.bool).tril()
            if not is_dense:
                visible &= self._visible_blocks(len(x), head)
            scores[~visible] = -math.inf
            outputs.append(scores.softmax(-1) @ part[:, group + 1])
        return self._linear(f"{name}.dense", torch.cat(outputs, -1))

    def _visible_blocks(self, num_tokens: int, head: int) -> Tensor:
        c = self.config
        stride = c["blocksparse_vert_stride"]
        step = (
            0 if c["blocksparse_homo_head_pattern"] else max(1, stride // c["num_attention_heads"])
        )
        blocks = torch.arange(num_tokens) // c["blocksparse_block_size"]
        query, key = blocks[:, None], blocks[None, :]
        is_local = query - key < c["blocksparse_num_local_blocks"]
        return is_local | ((key + head * step + 1) % stride == 0)

    def _rope(self, num_tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
        c = self.config
        inv_freq = c["rope_embedding_base"] ** (
            -torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        )
        positions = torch.arange(num_tokens, dtype=torch.float64)
        mscale = 1.0
        if c["rope_scaling"]:
            rope = c["rope_scaling"]
            original = rope["original_max_position_embeddings"]
            is_long = num_tokens > original
            factors = rope["long_factor" if is_long else "short_factor"]
            inv_freq = inv_freq / torch.tensor(factors, dtype=torch.float64)
            mscale = rope.get("long_mscale" if is_long else "short_mscale", -1)
            if mscale <= 0:
                s = c["max_position_embeddings"] / original
                mscale = math.sqrt(1 + math.log(s) / math.log(original)) if is_long else 1.0
        else:
            positions = positions * c["rope_position_scale"]
        angles = positions[:, None] * inv_freq
        return (angles.cos() * mscale).to(self.dtype), (angles.sin() * mscale).to(self.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def gegelu(x: Tensor, limit: float | None) -> Tensor:
    gate, up = x[..., 0::2], x[..., 1::2]
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)
