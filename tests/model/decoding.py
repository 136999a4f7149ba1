"""Drives a network by hand, one sequence at a time or several in a step."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from phi3svc.model.inputs import Chunk, ModelInput
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import Network
from phi3svc.ops import PAGE_SIZE


class Pages:
    """A KV cache full of NaN, whose pages are handed out in random order."""

    def __init__(self, network: Network, num_pages: int, seed: int = 0) -> None:
        self.kv = KVCache(network.config, num_pages, network.dtype, network.device)
        for layer in self.kv.layers:
            for pages in layer:
                pages.fill_(float("nan"))
        self._free = list(range(num_pages))
        random.Random(seed).shuffle(self._free)

    def take(self, num_tokens: int) -> list[int]:
        return [self._free.pop() for _ in range(-(-num_tokens // PAGE_SIZE))]


def prefill(
    network: Network, token_ids: list[int], *, chunk_len: int | None = None, seed: int = 0
) -> Tensor:
    """Hidden states h [S, E] of one sequence, alone, in chunks of `chunk_len` tokens."""
    pages = Pages(network, len(token_ids) // PAGE_SIZE + 3, seed)
    table = pages.take(len(token_ids))
    rope_set = network.config.rope_set(len(token_ids))
    parts = []
    for start in range(0, len(token_ids), chunk_len or len(token_ids)):
        part = token_ids[start : start + (chunk_len or len(token_ids))]
        inputs = ModelInput.pack([Chunk(part, start, rope_set, table)])
        parts.append(network.forward(inputs, pages.kv).clone())
    return torch.cat(parts)


def all_logits(network: Network, token_ids: list[int]) -> Tensor:
    """Logits [S, V] of every position of one sequence, in the CPU's memory."""
    h = prefill(network, token_ids)
    return network.logits(h, torch.arange(len(token_ids), dtype=torch.int32)).clone().cpu()


def greedy(network: Network, token_ids: list[int], num_tokens: int) -> tuple[list[int], int]:
    """Greedy continuation as a scheduler would do it, and how many times it recomputed.

    One token a step over the cached keys; when the sequence outgrows its LongRoPE factor set, all
    of it is computed again with the other.
    """
    ids = list(token_ids)
    pages = Pages(network, (len(ids) + num_tokens) // PAGE_SIZE + 2)
    table = pages.take(len(ids) + num_tokens)
    num_computed, rope_set, num_recomputed = 0, network.config.rope_set(len(ids)), 0
    for _ in range(num_tokens):
        if network.config.rope_set(len(ids)) != rope_set:
            rope_set, num_computed = network.config.rope_set(len(ids)), 0
            num_recomputed += 1
        inputs = ModelInput.pack([Chunk(ids[num_computed:], num_computed, rope_set, table)])
        h = network.forward(inputs, pages.kv)
        last = torch.tensor([len(h) - 1], dtype=torch.int32)
        num_computed = len(ids)
        ids.append(int(network.logits(h, last)[0].argmax()))
    return ids[len(token_ids) :], num_recomputed


def random_ids(num_tokens: int, vocab_size: int = 256, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(vocab_size) for _ in range(num_tokens)]
