"""Ends of the engine process that nobody asked for, and of the front."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec
from phi3svc.engine.events import TokenEvent
from phi3svc.engine.process import EngineProcess
from phi3svc.engine.request import GenerateRequest
from phi3svc.errors import ConfigError, EngineFailed, Unavailable
from tests.engine.requests import classify, generate

CONFIG = EngineConfig(max_step_tokens=32, kv_memory_bytes=8 << 20, num_threads=1)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def drain(stream: AsyncIterator[TokenEvent]) -> None:
    async for _ in stream:
        pass


async def spawned(engine: EngineProcess) -> int:
    """The process id, as soon as there is one."""
    async with asyncio.timeout(5):
        while engine.pid is None:  # noqa: ASYNC110, there is nothing to wait on
            await asyncio.sleep(0)
    return engine.pid


async def test_a_killed_engine_ends_its_streams_cleanly(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = EngineProcess([ModelSpec("tiny", str(tiny))], CONFIG)
    await engine.start()
    pid = engine.pid
    assert pid is not None

    async def read(request: GenerateRequest, seen: asyncio.Event) -> int:
        num_tokens = 0
        async for event in engine.generate(request):
            num_tokens += len(event.token_ids)
            seen.set()
        return num_tokens

    seen = [asyncio.Event() for _ in range(8)]
    tasks = [asyncio.create_task(read(generate(str(i), [1, 2, 3], 500), seen[i])) for i in range(8)]
    await asyncio.gather(*(event.wait() for event in seen))
    os.kill(pid, signal.SIGKILL)
    started_s = time.monotonic()
    done, pending = await asyncio.wait(tasks, timeout=5)
    assert not pending
    assert time.monotonic() - started_s < 1
    for task in done:
        assert isinstance(task.exception(), Unavailable)
        assert str(task.exception()) == "the engine process has died"
    assert not engine.healthy
    await asyncio.wait_for(engine.wait_dead(), 1)
    assert "has died" in caplog.text
    with pytest.raises(Unavailable, match="has died"):
        await engine.classify(classify("a", [1]))
    await engine.close()
    assert not is_alive(pid)


async def test_a_bad_checkpoint_is_one_line(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    config = json.loads((broken / "config.json").read_text())
    config["hidden_size"] = 128
    (broken / "config.json").write_text(json.dumps(config))
    engine = EngineProcess([ModelSpec("tiny", str(tiny)), ModelSpec("bad", str(broken))], CONFIG)
    with pytest.raises(ConfigError) as caught:
        await engine.start()
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not engine.healthy
    assert engine.pid is not None
    assert not is_alive(engine.pid)


async def test_too_little_kv_memory_is_one_line(tiny: Path) -> None:
    config = EngineConfig(kv_memory_bytes=4096, num_threads=1)
    engine = EngineProcess([ModelSpec("tiny", str(tiny))], config)
    with pytest.raises(ConfigError, match=r"engine\.kv_memory_bytes=4096: model 'tiny' gets 4096"):
        await engine.start()


async def test_an_isa_the_cpu_lacks_is_one_line(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI3SVC_CPU_ISA", "abacus")
    engine = EngineProcess([ModelSpec("tiny", str(tiny))], CONFIG)
    with pytest.raises(ConfigError, match="abacus") as caught:
        await engine.start()
    assert "\n" not in str(caught.value)


async def test_an_engine_that_dies_while_loading_fails_the_start(tiny: Path) -> None:
    engine = EngineProcess([ModelSpec("tiny", str(tiny))], CONFIG)
    start = asyncio.create_task(engine.start())
    os.kill(await spawned(engine), signal.SIGKILL)
    with pytest.raises(EngineFailed, match="died while it was starting"):
        await asyncio.wait_for(start, 10)
    await engine.close()


async def test_giving_up_the_start_leaves_no_process(tiny: Path) -> None:
    engine = EngineProcess([ModelSpec("tiny", str(tiny))], CONFIG)
    start = asyncio.create_task(engine.start())
    pid = await spawned(engine)
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    assert not is_alive(pid)


async def test_closing_ends_open_streams_and_the_process(tiny: Path) -> None:
    engine = EngineProcess([ModelSpec("tiny", str(tiny))], CONFIG)
    await engine.start()
    stream = engine.generate(generate("a", [1], 500))
    await anext(stream)
    assert engine.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the whole service: the front decides
        os.kill(engine.pid, number)
    for _ in range(3):
        await anext(stream)
    await engine.close(grace_s=5)
    with pytest.raises(Unavailable, match="shut down"):
        await drain(stream)
    assert not is_alive(engine.pid)


FRONT = """
import asyncio, sys
from phi3svc.config.engine import EngineConfig
from phi3svc.config.server import ModelSpec
from phi3svc.engine.events import TokenEvent
from phi3svc.engine.process import EngineProcess
from phi3svc.engine.request import GenerateRequest, SamplingParams

async def main():
    config = EngineConfig(kv_memory_bytes=8 << 20, num_threads=1)
    engine = EngineProcess([ModelSpec("tiny", sys.argv[1])], config)
    await engine.start()
    while True:
        async for _ in engine.generate(GenerateRequest("a", "tiny", [1], SamplingParams(), 500)):
            print(engine.pid, flush=True)

asyncio.run(main())
"""


def test_the_engine_does_not_outlive_a_killed_front(tiny: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FRONT, str(tiny)], stdout=subprocess.PIPE, text=True
    ) as front:
        assert front.stdout is not None
        pid = int(front.stdout.readline())
        assert is_alive(pid)
        front.kill()
    deadline_s = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not is_alive(pid)
