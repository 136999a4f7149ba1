"""A token's bits do not depend on how its prompt was cut, on page ids, or on who shares the step.

A small network of two layers runs over the same prompts in many ways; everything it computes must
come out bit for bit the same: hidden states, logits, keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import reference
from compare import assert_bitwise_equal
from network import VOCAB_SIZE, Cache, Chunk, Network, step
from phi3svc import ops

pytestmark = pytest.mark.usefixtures("gemm_isa")


@dataclass(frozen=True)
class Trace:
    """Everything a sequence left behind."""

    h: Tensor
    logits: Tensor
    cached: list[Tensor]

    def assert_equals(self, other: Trace) -> None:
        assert_bitwise_equal(self.h, other.h)
        assert_bitwise_equal(self.logits, other.logits)
        for mine, theirs in zip(self.cached, other.cached, strict=True):
            assert_bitwise_equal(mine, theirs)


@dataclass(frozen=True)
class Prompt:
    token_ids: Tensor
    rope_set: int

    def __len__(self) -> int:
        return len(self.token_ids)


def prompt(num_tokens: int, rope_set: int = 0) -> Prompt:
    return Prompt(torch.randint(VOCAB_SIZE, (num_tokens,), dtype=torch.int32), rope_set)


def run(network: Network, prompts: list[Prompt], chunk_lens: list[int]) -> list[Trace]:
    """All prompts side by side through one cache, each in chunks of its own length."""
    cache = Cache(network, sum(-(-len(p) // ops.PAGE_SIZE) for p in prompts) + 2)
    pages = [cache.take(len(p)) for p in prompts]
    todo = [
        [
            Chunk(p.token_ids, page_ids, p.rope_set, start, end)
            for start, end in reference.chunks(len(p), chunk_len)
        ]
        for p, page_ids, chunk_len in zip(prompts, pages, chunk_lens, strict=True)
    ]
    h: list[list[Tensor]] = [[] for _ in prompts]
    logits: list[list[Tensor]] = [[] for _ in prompts]
    while any(todo):
        now = [i for i, left in enumerate(todo) if left]
        new_h, new_logits = step(network, cache, [todo[i].pop(0) for i in now])
        for i, one_h, one_logits in zip(now, new_h, new_logits, strict=True):
            h[i].append(one_h)
            logits[i].append(one_logits)
    return [
        Trace(torch.cat(h[i]), torch.cat(logits[i]), cache.keys_and_values(pages[i], len(p)))
        for i, p in enumerate(prompts)
    ]


def alone(network: Network, one: Prompt) -> Trace:
    return run(network, [one], [len(one)])[0]


F32, BF16, INT8 = torch.float32, torch.bfloat16, torch.int8
NETWORKS: dict[str, Callable[[], Network]] = {
    "f32-small": lambda: Network(F32, 0, F32, is_small=True),
    "f32-window5-kv_int8": lambda: Network(F32, 5, INT8),
    "bf16": lambda: Network(BF16, 0, BF16),
    "bf16-window5": lambda: Network(BF16, 5, BF16),
    "bf16-small": lambda: Network(BF16, 0, BF16, is_small=True),
    "bf16-window270-kv_int8": lambda: Network(BF16, 270, INT8),
    "bf16-small-kv_int8": lambda: Network(BF16, 0, INT8, is_small=True),
    "int8": lambda: Network(BF16, 0, BF16, format="int8"),
    "int8-small-f32": lambda: Network(F32, 0, F32, is_small=True, format="int8"),
    "int4-g32-min-kv_int8": lambda: Network(BF16, 5, INT8, format="int4-g32-min"),
    "int4-g128-down-bf16": lambda: Network(
        BF16, 0, BF16, format="int4-g128", down_format="bfloat16"
    ),
}


CPU_ONLY = [name for name in NETWORKS if "int" in name]


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.cpu_only] if name in CPU_ONLY else [])
        for name in NETWORKS
    ]
)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]()


def test_a_recorded_step_equals_its_calls(network: Network) -> None:
    one = prompt(290)
    cache = Cache(network, 20)
    pages = cache.take(len(one))
    chunk = Chunk(one.token_ids, pages, 0, 0, len(one))
    (h,), (logits,) = step(network, cache, [chunk], is_recorded=True)
    Trace(h, logits, cache.keys_and_values(pages, len(one))).assert_equals(alone(network, one))


@pytest.mark.parametrize("chunk_len", [1, 16, 17, 256])
def test_chunking_does_not_change_a_prompt(network: Network, chunk_len: int) -> None:
    one = prompt(290)
    run(network, [one], [chunk_len])[0].assert_equals(alone(network, one))


def test_decoding_across_spans_equals_one_prefill(network: Network) -> None:
    """A prompt of 500 tokens, then one token at a time over the 512-key edge."""
    one = prompt(530)
    cache = Cache(network, 40)
    pages = cache.take(len(one))
    cuts = [(0, 500), *((i, i + 1) for i in range(500, 530))]
    steps = [step(network, cache, [Chunk(one.token_ids, pages, 0, *cut)]) for cut in cuts]
    stepwise = Trace(
        torch.cat([h for (h,), _ in steps]),
        torch.cat([logits for _, (logits,) in steps]),
        cache.keys_and_values(pages, len(one)),
    )
    stepwise.assert_equals(alone(network, one))


def test_sharing_steps_does_not_change_a_prompt(network: Network) -> None:
    lens = [1, 16, 17, 33, 90, 257, 40, 5, 64, 2]
    prompts = [prompt(n, rope_set=i % 2) for i, n in enumerate(lens)]
    together = run(network, prompts, [1, 16, 3, 8, 7, 50, 1, 5, 17, 1])
    for one, trace in zip(prompts, together, strict=True):
        trace.assert_equals(alone(network, one))


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_do_not_change_a_prompt(network: Network, num_threads: int) -> None:
    prompts = [prompt(n) for n in (270, 16, 3)]
    before = [alone(network, one) for one in prompts]
    ops.set_num_threads(num_threads)
    for chunk_lens in ([270, 16, 3], [9, 4, 1]):
        for trace, expected in zip(run(network, prompts, chunk_lens), before, strict=True):
            trace.assert_equals(expected)


def test_a_spoilt_neighbour_does_not_change_a_prompt(network: Network) -> None:
    """A neighbour whose keys, values and activations are all NaN shares every step."""
    one, neighbour = prompt(40), prompt(30)
    expected = alone(network, one)
    cache = Cache(network, 8)
    pages, other_pages = cache.take(len(one)), cache.take(len(neighbour))
    traces_h, traces_logits = [], []
    for (start, end), (other_start, other_end) in zip(
        reference.chunks(40, 8), reference.chunks(30, 6), strict=True
    ):
        cache.spoil(other_pages)
        chunk = Chunk(one.token_ids, pages, 0, start, end)
        other = Chunk(neighbour.token_ids, other_pages, 0, other_start, other_end)
        mine = int(start % 16 == 0)
        h, logits = step(network, cache, [other, chunk] if mine else [chunk, other])
        if other_start:
            assert h[1 - mine].isnan().all()
        traces_h.append(h[mine])
        traces_logits.append(logits[mine])
    found = Trace(
        torch.cat(traces_h), torch.cat(traces_logits), cache.keys_and_values(pages, len(one))
    )
    found.assert_equals(expected)


def test_sharing_pages_of_a_common_prefix_does_not_change_a_prompt(network: Network) -> None:
    """Two prompts read the same pages for their first 32 tokens, as with a prefix cache."""
    first, second = prompt(45), prompt(60)
    second.token_ids[:32] = first.token_ids[:32]
    expected = alone(network, second)
    cache = Cache(network, 10)
    first_pages = cache.take(len(first))
    second_pages = torch.cat([first_pages[:2], cache.take(len(second) - 32)])
    step(network, cache, [Chunk(first.token_ids, first_pages, 0, 0, 44)])
    h, logits = step(
        network,
        cache,
        [
            Chunk(first.token_ids, first_pages, 0, 44, 45),
            Chunk(second.token_ids, second_pages, 0, 32, 60),
        ],
    )
    assert_bitwise_equal(h[1], expected.h[32:])
    assert_bitwise_equal(logits[1], expected.logits[32:])
    for mine, theirs in zip(
        cache.keys_and_values(second_pages, len(second)), expected.cached, strict=True
    ):
        assert_bitwise_equal(mine, theirs)
