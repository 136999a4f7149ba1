"""The engine on tiny random checkpoints: what it answers, and what it does when things break."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from msgspec import structs

from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import FailedEvent
from phi3svc.engine.request import ClassifyRequest, SamplingParams
from phi3svc.errors import DeadlineExceeded, InvalidRequest, PromptTooLong, UnsupportedTask
from phi3svc.model.network import Network
from tests.engine.core_runs import make_core, mixed_requests, poison, run, run_alone
from tests.engine.requests import classify, generate
from tests.model import oracle
from tests.model.decoding import random_ids
from tests.networks import load_network


@pytest.fixture(scope="module")
def network(tiny: Path) -> Network:
    return load_network(tiny)


@pytest.mark.parametrize("prompt_len", [1, 12, 31, 32, 33, 70])
def test_greedy_equals_transformers_for_64_tokens(
    tiny: Path, network: Network, prompt_len: int
) -> None:
    prompt_ids = random_ids(prompt_len, seed=prompt_len)
    expected = oracle.greedy(oracle.load(tiny), prompt_ids, 64)
    answer = run(make_core(network, max_step_tokens=16), [generate("a", prompt_ids, 64)])["a"]
    assert answer.token_ids == expected
    assert answer.finish == "length"


def test_greedy_with_window_ties_and_partial_rotation_equals_transformers(windowed: Path) -> None:
    prompt_ids = random_ids(25, seed=3)
    expected = oracle.greedy(oracle.load(windowed), prompt_ids, 64)
    core = make_core(load_network(windowed), max_step_tokens=7)
    assert run(core, [generate("a", prompt_ids, 64)])["a"].token_ids == expected


def test_logprobs_are_those_of_the_raw_logits(tiny: Path, network: Network) -> None:
    prompt_ids = random_ids(20, seed=5)
    sampling = SamplingParams(temperature=0.5, top_k=3, top_p=0.9, seed=11)
    answer = run(make_core(network), [generate("a", prompt_ids, 6, sampling=sampling)])["a"]
    logits = oracle.logits(oracle.load(tiny), prompt_ids + answer.token_ids)
    expected = torch.log_softmax(logits[len(prompt_ids) - 1 : -1], dim=-1)
    rows = torch.arange(len(answer.token_ids))
    torch.testing.assert_close(
        torch.tensor(answer.logprobs), expected[rows, answer.token_ids], atol=2e-4, rtol=1e-4
    )


def test_a_stream_continues_from_its_tokens_as_if_it_had_never_stopped(
    network: Network,
) -> None:
    """Across the LongRoPE boundary too: prompt and tokens so far are the whole state."""
    sampling = SamplingParams(temperature=1.0, seed=2**64 - 1)
    prompt_ids = random_ids(24, seed=6)
    whole = run(make_core(network), [generate("a", prompt_ids, 20, sampling=sampling)])["a"]
    for num_done in (1, 7, 8, 9, 19):
        resumed_ids = prompt_ids + whole.token_ids[:num_done]
        request = generate("a", resumed_ids, 20 - num_done, sampling=sampling)
        rest = run(make_core(network), [request])["a"]
        assert rest.token_ids == whole.token_ids[num_done:]
        assert rest.logprobs == whole.logprobs[num_done:]


def oracle_greedy(tiny: Path, prompt_ids: list[int], num_new: int, **settings: object) -> list[int]:
    model = oracle.load(tiny)
    ids = torch.tensor([prompt_ids])
    with torch.inference_mode():
        output = model.generate(
            ids, max_new_tokens=num_new, do_sample=False, pad_token_id=0, **settings
        )
    answer: list[int] = output[0, len(prompt_ids) :].tolist()
    return answer


def test_greedy_with_penalty_bias_and_minimum_equals_transformers(
    tiny: Path, network: Network
) -> None:
    """Below the original length: transformers' cache does not recompute on crossing it."""
    prompt_ids = random_ids(8, seed=4)
    plain = run(make_core(network), [generate("a", prompt_ids, 20)])["a"].token_ids
    stop_ids = (plain[0], plain[2])
    sampling = SamplingParams(repetition_penalty=1.2, logit_bias={plain[5]: -2.0})
    request = generate(
        "a", prompt_ids, 20, sampling=sampling, stop_token_ids=stop_ids, min_new_tokens=12
    )
    expected = oracle_greedy(
        tiny,
        prompt_ids,
        20,
        repetition_penalty=1.2,
        sequence_bias=[[[plain[5]], -2.0]],
        eos_token_id=list(stop_ids),
        min_new_tokens=12,
    )
    assert run(make_core(network), [request])["a"].token_ids == expected
    assert len(expected) >= 12
    assert expected != plain


def test_no_stop_token_comes_before_the_minimum(network: Network) -> None:
    prompt_ids, stop_ids = random_ids(6), (*range(0, 300, 2), 2**31 - 1)
    lengths = {}
    for minimum in (0, 1, 9):
        request = generate(
            "a",
            prompt_ids,
            40,
            sampling=SamplingParams(1.0, seed=3),
            stop_token_ids=stop_ids,
            min_new_tokens=minimum,
        )
        answer = run(make_core(network), [request])["a"]
        assert answer.finish == "stop_token"
        assert all(token_id % 2 for token_id in answer.token_ids[:-1])
        lengths[minimum] = len(answer.token_ids)
        # Tokens 0 .. minimum - 1 are none of them, so that the first may be token `minimum`.
        assert lengths[minimum] > minimum
    assert lengths[0] < 9


@pytest.mark.parametrize(
    ("setting", "num_different"), [({"presence_penalty": 2.0}, 8), ({"frequency_penalty": 2.0}, 8)]
)
def test_presence_and_frequency_count_no_token_of_the_prompt(
    network: Network, setting: dict[str, float], num_different: int
) -> None:
    """The first token comes as without; strong penalties then let nearly nothing come twice."""
    prompt_ids = random_ids(10, seed=8) * 2
    plain = run(make_core(network), [generate("a", prompt_ids, 40)])["a"].token_ids
    sampling = SamplingParams(logit_bias={plain[0]: 1.5})
    base = run(make_core(network), [generate("a", prompt_ids, 12, sampling=sampling)])["a"]
    sampling = SamplingParams(logit_bias={plain[0]: 1.5}, **setting)
    answer = run(make_core(network), [generate("a", prompt_ids, 12, sampling=sampling)])["a"]
    assert answer.token_ids[0] == base.token_ids[0]
    assert len(set(answer.token_ids)) > len(set(base.token_ids))
    assert len(set(answer.token_ids)) >= num_different


def test_seeds_give_different_streams_and_equal_seeds_equal_ones(network: Network) -> None:
    prompt_ids = random_ids(10)
    by_seed = {}
    for seed in (1, 2, 1 + 2**63):
        request = generate("a", prompt_ids, 12, sampling=SamplingParams(1.0, seed=seed))
        by_seed[seed] = tuple(run(make_core(network), [request])["a"].token_ids)
        assert tuple(run(make_core(network), [request])["a"].token_ids) == by_seed[seed]
    assert len(set(by_seed.values())) == 3


@pytest.mark.parametrize("budget", [5, 2048])
@pytest.mark.parametrize("task", ["sequence-classification", "token-classification"])
def test_classification_and_generation_share_a_batch(
    two_headed: dict[str, Path], task: str, budget: int
) -> None:
    network = load_network(two_headed[task])
    assert network.heads == {"generation", task}
    per_token = task == "token-classification"
    texts = {f"c{n}": random_ids(n, seed=n) for n in (1, 9, 33, 50)}
    requests = [
        *mixed_requests(4),
        *(classify(name, ids, per_token=per_token) for name, ids in texts.items()),
    ]
    answers = run(make_core(network, max_step_tokens=budget), requests)
    assert answers == run_alone(network, requests)
    model = oracle.load(two_headed[task], architecture=_ARCHITECTURES[task])
    for name, ids in texts.items():
        expected = oracle.logits(model, ids)
        scores = torch.tensor(answers[name].scores)
        assert scores.shape == ((len(ids), 3) if per_token else (1, 3))
        torch.testing.assert_close(scores.reshape(expected.shape), expected, atol=1e-4, rtol=1e-4)


_ARCHITECTURES = {
    "sequence-classification": "Phi3ForSequenceClassification",
    "token-classification": "Phi3ForTokenClassification",
}


def test_a_text_that_ends_in_pad_tokens_is_pooled_before_them(two_headed: dict[str, Path]) -> None:
    path = two_headed["sequence-classification"]
    network = load_network(path)
    pad_id = network.config.pad_token_id
    assert pad_id is not None
    ids = [*random_ids(30, seed=9), pad_id, pad_id, pad_id]
    core = make_core(network, max_step_tokens=8)
    scores = torch.tensor(run(core, [classify("c", ids)])["c"].scores)
    model = oracle.load(path, architecture="Phi3ForSequenceClassification")
    torch.testing.assert_close(scores[0], oracle.logits(model, ids), atol=1e-4, rtol=1e-4)


def test_cancelling_frees_blocks_at_once(network: Network) -> None:
    core = make_core(network, max_step_tokens=16, num_blocks=32)
    core.add(generate("decoding", random_ids(20), 100))
    core.step()
    core.step()
    core.add(generate("chunked", random_ids(60), 100))
    core.step()
    assert core.num_free_blocks == 32 - 2 - 4
    core.cancel("chunked")
    assert core.num_free_blocks == 32 - 2
    core.cancel("decoding")
    core.cancel("decoding")
    assert core.num_free_blocks == 32
    assert not core.has_work


def test_a_deadline_that_passes_ends_its_request_alone(network: Network) -> None:
    core = make_core(network, num_blocks=32)
    core.add(generate("late", random_ids(20), 100, deadline_s=time.monotonic() - 1))
    (event,) = core.step()
    assert isinstance(event, FailedEvent)
    assert (event.request_id, event.kind) == ("late", "deadline_exceeded")
    assert isinstance(event.to_error(), DeadlineExceeded)
    assert not core.has_work
    assert core.num_free_blocks == 32
    in_time = generate("in time", random_ids(20), 3, deadline_s=time.monotonic() + 60)
    assert run(core, [in_time])["in time"].finish == "length"


def test_a_row_of_nan_fails_its_request_alone(tiny: Path) -> None:
    network = load_network(tiny)
    requests = mixed_requests(6)
    expected = run_alone(network, requests)
    poison(network, 299)  # no prompt of `mixed_requests` has it
    assert all(299 not in answer.token_ids for answer in expected.values())
    core = make_core(network, num_blocks=32)
    bad = generate("bad", [5, 299, 5], 4)
    for _ in range(2):  # the second time, blocks full of NaN have found new owners
        answers = run(core, [bad, *requests])
        failure = answers.pop("bad").failure
        assert failure is not None
        assert failure.kind == "engine_failed"
        assert answers == expected


def test_scores_of_nan_fail_their_request_alone(two_headed: dict[str, Path]) -> None:
    network = load_network(two_headed["token-classification"])
    poison(network, 299)
    requests: list[ClassifyRequest] = [
        classify("good", [1, 2, 3], per_token=True),
        classify("bad", [1, 299, 3], per_token=True),
    ]
    answers = run(make_core(network, max_step_tokens=2), list(requests))
    assert answers["good"].scores is not None
    assert answers["bad"].failure is not None


def test_a_step_that_raises_fails_its_batch_and_no_more(
    network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = make_core(network, max_step_tokens=16, max_sequences=2)
    requests = mixed_requests(4)

    def broken(*args: object) -> None:
        raise RuntimeError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", broken)
        for request in requests:
            core.add(request)
        events = core.step()
    failed = {event.request_id: event for event in events}
    assert set(failed) == {"r0", "r1"}
    assert "the disk is on fire" in caplog.text
    for event in failed.values():
        assert event.kind == "engine_failed"
        assert "fire" not in event.message, "internals stay in the log"
        assert event.message.split()[-1] in caplog.text
    expected = run_alone(network, requests[2:])
    answers = {name: [] for name in expected}
    while core.has_work:
        for event in core.step():
            answers[event.request_id] += event.token_ids
    assert answers == {name: answer.token_ids for name, answer in expected.items()}
    assert core.num_free_blocks == 512


def test_bad_requests_are_refused_before_they_cost_anything(network: Network) -> None:
    core: EngineCore = make_core(network, num_blocks=4)
    assert core.context_len == 64
    with pytest.raises(InvalidRequest, match=r"token id 300, not in 0\.\.299"):
        core.add(generate("a", [1, 300], 1))
    with pytest.raises(InvalidRequest, match="token id -1"):
        core.add(generate("a", [1, -1], 1))
    with pytest.raises(InvalidRequest, match="no tokens"):
        core.add(generate("a", [], 1))
    with pytest.raises(PromptTooLong, match="64 tokens, not at most 63"):
        core.add(generate("a", [1] * 64, 1))
    for field, value in (("priority", 101), ("priority", -101), ("deadline_s", float("nan"))):
        with pytest.raises(InvalidRequest, match=field):
            core.add(structs.replace(generate("a", [1], 1), **{field: value}))
    for field, name in (("tenant", "x-tenant-id"), ("cache_salt", "cache_salt")):
        request = structs.replace(generate("a", [1], 1), **{field: "x" * 129})
        with pytest.raises(InvalidRequest, match=f"{name}: 129 characters, not at most 128"):
            core.add(request)
    with pytest.raises(UnsupportedTask, match="no head for token-classification"):
        core.add(classify("a", [1], per_token=True))
    with pytest.raises(InvalidRequest) as caught:
        core.add(generate("a", [1], 0, sampling=SamplingParams(float("nan"), -1, 0.0, 2**64)))
    assert [violation.field for violation in caught.value.violations] == [
        "sampling.temperature",
        "sampling.top_k",
        "sampling.top_p",
        "sampling.seed",
        "stop.max_new_tokens",
    ]
    sampling = SamplingParams(
        0.0, 0, 1.0, 0, -0.1, 0.0, 0.0, 2.5, float("nan"), {300: 0.0, 7: 101.0}
    )
    request = generate("a", [1], 4, sampling=sampling, min_new_tokens=5)
    with pytest.raises(InvalidRequest) as caught:
        core.add(request)
    assert [violation.field for violation in caught.value.violations] == [
        "sampling.min_p",
        "sampling.typical_p",
        "sampling.repetition_penalty",
        "sampling.presence_penalty",
        "sampling.frequency_penalty",
        "sampling.logit_bias[7]",
        "sampling.logit_bias[300]",
        "stop.min_new_tokens",
    ]
    with pytest.raises(InvalidRequest, match="every token is a stop token"):
        core.add(generate("a", [1], 4, stop_token_ids=tuple(range(300)), min_new_tokens=1))
    assert not core.has_work
