"""What every engine is asked to generate, and how it is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from tests.bench.gpu.shapes import Shape

BATCHES = (1, 8, 64, 256)
PROMPT_LEN, NUM_NEW = 512, 64
_ROUNDS = 3

Generate = Callable[[torch.Tensor, int], None]
"""Greedy tokens behind prompts, int64 [B, n], so many for each, whatever they are."""


class Timed(NamedTuple):
    """Tokens per second of the whole batch: of the prompts, and of what follows them."""

    prefill: float
    decode: float


def timed_generation(generate: Generate, shape: Shape, batch: int, device: torch.device) -> Timed:
    """Medians of some rounds, after one to warm up. A prompt's time is that of one new token."""
    torch.manual_seed(0)
    prompts = torch.randint(3, shape.vocab_size, (batch, PROMPT_LEN), device=device)
    for num_new in (1, NUM_NEW):
        generate(prompts, num_new)
    prefills = []
    decodes = []
    for _ in range(_ROUNDS):
        first, all_tokens = (_seconds(generate, prompts, n, device) for n in (1, NUM_NEW))
        prefills.append(batch * PROMPT_LEN / first)
        decodes.append(batch * (NUM_NEW - 1) / max(all_tokens - first, 1e-9))
    return Timed(statistics.median(prefills), statistics.median(decodes))


def _seconds(
    generate: Generate, prompts: torch.Tensor, num_new: int, device: torch.device
) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    generate(prompts, num_new)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
