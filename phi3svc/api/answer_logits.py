"""The logits from which the tokens of answers were chosen, computed once more.

The engine keeps none. But how a sequence is cut into steps changes no bit of its logits, so a few
long steps over prompt and answer give those of the many short ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from phi3svc.model.inputs import Chunk, ModelInput, int32_tensor
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import Network
from phi3svc.ops import PAGE_SIZE

_STEP_TOKENS = 512
_LOGIT_ROWS = 64  # at a time; the network keeps room for them


def answer_logits(
    network: Network, prompt_ids: Sequence[int], answers: Sequence[Sequence[int]]
) -> list[Tensor]:
    """For each answer to a prompt, float32 [tokens of the answer, V].

    A token was chosen under the rope factors for the length of what was there before it, so an
    answer that outgrew LongRoPE's original length is computed under the short and the long ones.
    """
    first = len(prompt_ids)
    length = first + max(map(len, answers))
    kv = KVCache(network.config, -(-length // PAGE_SIZE), network.dtype, network.device)
    logits = [torch.empty(len(answer), network.config.vocab_size) for answer in answers]
    # Set by set, not answer by answer: the prompt is computed once under each.
    for rope_set, lengths in groupby(range(first, length), key=network.config.rope_set):
        span = list(lengths)
        start = 0
        for answer, out in zip(answers, logits, strict=True):
            end = min(span[-1] + 1, first + len(answer))
            if end <= span[0]:
                continue
            token_ids = [*prompt_ids, *answer][: end - 1]
            done = span[0] - first
            for rows in _logits(network, kv, token_ids, start, span[0] - 1, rope_set):
                out[done : done + len(rows)] = rows
                done += len(rows)
            start = first - 1  # the prompt's last row is wanted again, the others are in the cache
    return logits


def _logits(
    network: Network,
    kv: KVCache,
    token_ids: Sequence[int],
    start: int,
    first_wanted: int,
    rope_set: int,
) -> Iterator[Tensor]:
    """Logits of the tokens behind positions `first_wanted` and later, some rows at a time.

    The tokens before `start` are in the cache already, under the same factors. What is given is
    good until the next.
    """
    for begin in range(start, len(token_ids), _STEP_TOKENS):
        chunk_ids = token_ids[begin : begin + _STEP_TOKENS]
        num_pages = -(-(begin + len(chunk_ids)) // PAGE_SIZE)
        inputs = ModelInput.pack([Chunk(chunk_ids, begin, rope_set, range(num_pages))])
        h = network.forward(inputs, kv)
        wanted = range(max(first_wanted - begin, 0), len(chunk_ids))
        for row in range(wanted.start, wanted.stop, _LOGIT_ROWS):
            some = range(row, min(row + _LOGIT_ROWS, wanted.stop))
            yield network.logits(h, int32_tensor(list(some)))
