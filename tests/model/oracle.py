"""transformers as the oracle: batch 1, no padding, no chunking, eager attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor


def load(path: Path, dtype: str = "float32", architecture: str = "Phi3ForCausalLM") -> Any:
    """The checkpoint in transformers. `from_pretrained(dtype=)` keeps inv_freq in float32."""
    kind = getattr(transformers, architecture)
    model = kind.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="eager")
    return model.eval()


@torch.no_grad()
def logits(model: Any, token_ids: list[int]) -> Tensor:
    """float32 logits of one unpadded row: [S, V], [S, C] or, pooled, [C]."""
    return model(torch.tensor([token_ids])).logits[0].float()


@torch.no_grad()
def greedy(model: Any, token_ids: list[int], num_tokens: int) -> list[int]:
    """What `generate` appends to the prompt, never stopping early."""
    prompt = torch.tensor([token_ids])
    model.generation_config.eos_token_id = None
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(token_ids) :].tolist()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The larger of ‖Δ‖ / ‖expected‖ and max |Δ| / max |expected|."""
    delta = (actual - expected).double()
    norm = delta.norm() / expected.double().norm()
    peak = delta.abs().max() / expected.double().abs().max()
    return float(max(norm, peak))
