"""The load: when requests are sent, and that no wait is left out of the figures."""

from __future__ import annotations

from phi3svc.bench.load import closed_loop, open_loop, run_load
from phi3svc.bench.record import RequestRecord
from phi3svc.bench.workload import Workload
from tests.bench.fakes import SlowTarget

SERVICE_S = 0.02
PROMPTS = [[i] for i in range(10)]
ARRIVALS = [0.002 * i for i in range(10)]


def ignore(_: RequestRecord) -> None:
    pass


async def test_open_loop_does_not_wait_for_answers() -> None:
    target = SlowTarget(SERVICE_S)
    records = await open_loop(target, PROMPTS, ARRIVALS, ignore)
    assert target.max_running > 5
    assert [r.intended_s for r in records] == ARRIVALS
    assert all(r.sent_s >= r.intended_s for r in records)
    for i, r in enumerate(records):
        # The server is busy with those before: the wait is in the figure.
        assert r.first_token_s is not None
        assert r.first_token_s >= (i + 1) * SERVICE_S - ARRIVALS[i] - 1e-3


async def test_a_stalled_client_hides_nothing() -> None:
    """Coordinated omission: the client cannot send in time, and the requests still have waited."""
    records = await open_loop(SlowTarget(SERVICE_S, blocks_client=True), PROMPTS, ARRIVALS, ignore)
    first_token_s = [r.first_token_s or 0.0 for r in records]
    for i, r in enumerate(records):
        assert first_token_s[i] >= (i + 1) * SERVICE_S - ARRIVALS[i] - 1e-3
        assert r.total_s >= first_token_s[i]
    # Counted from sending, the tail would look several times better than it was.
    from_sending = [t - r.send_delay_s for t, r in zip(first_token_s, records, strict=True)]
    assert records[-1].send_delay_s > 2 * SERVICE_S
    assert first_token_s[-1] - from_sending[-1] > 2 * SERVICE_S


async def test_closed_loop_keeps_its_number_running() -> None:
    target = SlowTarget(0.001)
    done: list[RequestRecord] = []
    records = await closed_loop(target, PROMPTS, 3, done.append)
    assert target.max_running == 3
    assert target.prompts == PROMPTS
    assert sorted(map(id, done)) == sorted(map(id, records))
    assert all(r.intended_s <= r.sent_s < r.intended_s + 0.1 for r in records)
    assert [r.num_tokens for r in records] == [3] * 10


async def test_closed_loop_of_more_workers_than_requests() -> None:
    assert len(await closed_loop(SlowTarget(0.0), PROMPTS, 100, ignore)) == 10


async def test_a_failure_is_one_record() -> None:
    records = await closed_loop(SlowTarget(0.0, refused=4), PROMPTS, 2, ignore)
    assert [r.status for r in records] == ["OK"] * 4 + ["RESOURCE_EXHAUSTED"] + ["OK"] * 5
    assert records[4].error == "full"
    assert records[4].end_s > 0


async def test_warmup_counts_for_nothing() -> None:
    load = Workload(num_requests=6, prompt_len=3, max_new_tokens=3, num_warmup=4, rate=1000.0)
    target = SlowTarget(0.0)
    records = await run_load(target, load, ignore)
    assert len(records) == 6
    assert target.prompts[:4] == load.warmup_prompts(1000)
    assert target.prompts[4:] == load.prompts(1000)


async def test_no_warmup_is_possible() -> None:
    load = Workload(num_requests=2, num_warmup=0, concurrency=1)
    assert len(await run_load(SlowTarget(0.0), load, ignore)) == 2
