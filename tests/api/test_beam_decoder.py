"""Beams that share pages compute what each would compute alone, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from phi3svc.api.beam_cache import BeamCache, Write, max_pages
from phi3svc.api.beam_decoder import BeamDecoder
from phi3svc.model.inputs import ModelInput
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network
from phi3svc.ops import PAGE_SIZE
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import random_ids
from tests.model.small_checkpoints import make_small_checkpoint

ORIGINAL = 40
NUM_BEAMS = 3
NUM_STEPS = 37
PROMPT_LENS = (1, 16, 31, 45)


@pytest.fixture(params=["phi3", "phi3small"])
def network(request: pytest.FixtureRequest, checkpoint: MakeCheckpoint, tmp_path: Path) -> Network:
    if request.param == "phi3":
        return load_network(checkpoint(original=ORIGINAL))
    return load_network(make_small_checkpoint(tmp_path, original=ORIGINAL))


def make_cache(network: Network, num_pages: int, dtype: torch.dtype) -> BeamCache:
    """Full of NaN, where it is not int8."""
    cache = BeamCache(network.config, num_pages, dtype, network.device)
    for layer in (*cache.kv.layers, *cache.kv.scales):
        for pages in layer:
            if pages is not None and pages.is_floating_point():
                pages.fill_(float("nan"))
    return cache


def logits_alone(network: Network, token_ids: list[int], dtype: torch.dtype) -> Tensor:
    """[1, V], of one sequence that is computed at once in a cache of its own."""
    cache = make_cache(network, -(-len(token_ids) // PAGE_SIZE), dtype)
    decoder = BeamDecoder(network, cache)
    return decoder.logits([decoder.begin(token_ids)])[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8], ids=str)
def test_random_beams_equal_each_alone(network: Network, dtype: torch.dtype) -> None:
    """Prompts of several lengths, beams that come from random others, through the crossing.

    The cache has as many pages as `max_pages` says and no more, and all are free at the end.
    """
    source = random.Random(3)
    num_pages = sum(max_pages(n, n + NUM_STEPS, NUM_BEAMS) for n in PROMPT_LENS)
    cache = make_cache(network, num_pages, dtype)
    decoder = BeamDecoder(network, cache)
    rows = [decoder.begin(random_ids(n, seed=n)) for n in PROMPT_LENS]
    for step in range(NUM_STEPS + 1):
        all_logits = decoder.logits(rows)
        for row, logits in zip(rows, all_logits, strict=True):
            if step % 6 == 0 or ORIGINAL <= row.length <= ORIGINAL + 2:
                for beam, answer in enumerate(row.answers):
                    expected = logits_alone(network, [*row.prompt_ids, *answer], dtype)
                    assert logits[beam : beam + 1].equal(expected), (step, row.length, beam)
            num_beams = len(row.tables)
            parents = [source.randrange(num_beams) for _ in range(NUM_BEAMS)]
            answers = [[*row.answers[parent], source.randrange(256)] for parent in parents]
            decoder.go_on(row, parents, answers)
    for row in rows:
        decoder.free(row)
    table: list[int] = []
    cache.open([Write(table, 0, num_pages * PAGE_SIZE)])
    assert sorted(table) == list(range(num_pages))


def test_beams_that_stay_apart_fit(network: Network) -> None:
    """Beam i from beam i, always: as many different pages as there can be."""
    num_pages = max_pages(20, 20 + NUM_STEPS, NUM_BEAMS)
    decoder = BeamDecoder(network, make_cache(network, num_pages, network.dtype))
    row = decoder.begin(random_ids(20))
    for step in range(NUM_STEPS + 1):
        decoder.logits([row])
        parents = [0] * NUM_BEAMS if step == 0 else list(range(NUM_BEAMS))
        before = row.answers if step else row.answers * NUM_BEAMS
        decoder.go_on(row, parents, [[*answer, i] for i, answer in enumerate(before)])
    assert len({page for table in row.tables for page in table}) == num_pages


@pytest.fixture
def passes(network: Network, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward pass of the network had."""
    seen: list[int] = []
    forward = network.forward

    def counting(inputs: ModelInput, kv: KVCache) -> Tensor:
        seen.append(inputs.num_tokens)
        return forward(inputs, kv)

    monkeypatch.setattr(network, "forward", counting)
    return seen


def test_computes_nothing_twice(network: Network, passes: list[int]) -> None:
    """A prompt once, then a token per beam in one pass; at the crossing, what they share once."""
    num_pages = 2 * max_pages(ORIGINAL - 3, ORIGINAL + 2, NUM_BEAMS)
    decoder = BeamDecoder(network, make_cache(network, num_pages, network.dtype))
    rows = [decoder.begin(random_ids(ORIGINAL - 3, seed=i)) for i in range(2)]
    for step in range(5):
        decoder.logits(rows)
        for row in rows:
            # All begin with 7, and then differ.
            answers = [[7, *([beam] * step)] for beam in range(NUM_BEAMS)]
            decoder.go_on(row, [0] * NUM_BEAMS if step == 0 else [*range(NUM_BEAMS)], answers)
    shared = ORIGINAL - 3 + 1
    own = ORIGINAL + 1 - shared
    one_each = 2 * NUM_BEAMS
    assert passes == [
        2 * (ORIGINAL - 3),
        *[one_each] * 3,
        2 * shared,
        2 * NUM_BEAMS * own,
    ]


def test_long_prompts_go_through_in_parts(
    network: Network, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [random_ids(n, seed=n) for n in (30, 3, 64, 33)]
    expected = [logits_alone(network, prompt, network.dtype) for prompt in prompts]
    passes.clear()
    monkeypatch.setattr("phi3svc.api.beam_decoder._STEP_TOKENS", 32)
    decoder = BeamDecoder(network, make_cache(network, 10, network.dtype))
    all_logits = decoder.logits([decoder.begin(prompt) for prompt in prompts])
    for logits, alone in zip(all_logits, expected, strict=True):
        assert logits.equal(alone)
    assert passes == [32, 32, 32, 32, 2]
