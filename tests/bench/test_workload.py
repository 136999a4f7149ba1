"""Arrivals and prompts: what the seed decides, and that they are what they claim to be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from phi3svc.bench.arrivals import poisson_arrivals
from phi3svc.bench.workload import Workload
from phi3svc.config.checkpoint import EMBEDDED_DIR
from phi3svc.errors import ConfigError
from phi3svc.text.tokenizer import Tokenizer


def test_arrivals_have_the_rate_and_exponential_gaps() -> None:
    arrivals = poisson_arrivals(20.0, 20_001, seed=1)
    gaps = np.array([after - before for before, after in pairwise(arrivals)])
    assert arrivals[0] == 0
    assert gaps.min() > 0
    # Of an exponential distribution mean and deviation are equal; five standard errors.
    assert abs(gaps.mean() - 0.05) < 5 * 0.05 / np.sqrt(gaps.size)
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05
    assert abs((gaps > 0.05).mean() - np.exp(-1)) < 0.02


def test_arrivals_follow_the_seed() -> None:
    assert poisson_arrivals(3.0, 50, seed=7) == poisson_arrivals(3.0, 50, seed=7)
    assert poisson_arrivals(3.0, 50, seed=7) != poisson_arrivals(3.0, 50, seed=8)


def test_rate_zero_is_all_at_once() -> None:
    assert poisson_arrivals(0, 3, seed=0) == [0.0, 0.0, 0.0]


def test_prompts_follow_the_seed_and_share_nothing() -> None:
    load = Workload(num_requests=20, prompt_len=16, num_warmup=5, seed=3)
    prompts = load.prompts(32064)
    assert prompts == load.prompts(32064)
    assert prompts != Workload(num_requests=20, prompt_len=16, seed=4).prompts(32064)
    everything = prompts + load.warmup_prompts(32064)
    assert {len(prompt) for prompt in everything} == {16}
    assert len({tuple(prompt[:4]) for prompt in everything}) == len(everything) == 25


def test_prompts_avoid_special_ids() -> None:
    tokenizer = Tokenizer.from_dir(EMBEDDED_DIR / "demo")
    load = Workload(num_requests=50, prompt_len=200)
    drawn = {i for prompt in load.prompts(tokenizer.vocab_size) for i in prompt}
    assert len(drawn) > 800
    assert max(drawn) < tokenizer.vocab_size
    assert not drawn & tokenizer.special_ids
    # Phi-3-mini's are 0 to 2 and from 32000.
    drawn = {i for prompt in load.prompts(32064) for i in prompt}
    assert min(drawn) > 2
    assert max(drawn) < 32000


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 10])
def test_prompts_of_tiny_vocabularies_stay_inside(vocab_size: int) -> None:
    [prompt] = Workload(num_requests=1, prompt_len=50).prompts(vocab_size + 2)
    assert all(0 <= token_id < vocab_size + 2 for token_id in prompt)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_requests": 0}, "--requests 0"),
        ({"prompt_len": 0}, "--prompt-tokens 0"),
        ({"rate": float("nan")}, "--rate nan"),
        ({"rate": -1.0}, "--rate -1.0"),
        ({"rate": 1.0, "concurrency": 2}, "only one"),
    ],
)
def test_bad_setting_is_named(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Workload(**settings)  # type: ignore[arg-type]


def test_requests_beyond_the_context_are_refused() -> None:
    load = Workload(prompt_len=60, max_new_tokens=4)
    load.check_fits("tiny", 64)
    with pytest.raises(ConfigError, match="holds 63"):
        load.check_fits("tiny", 63)
