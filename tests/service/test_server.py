"""Life of the server: readiness, health, reflection, addresses, drain, engine death, signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from phi3svc.config.server import ServerConfig
from phi3svc.engine.async_engine import ModelInfo
from phi3svc.errors import ConfigError, EngineFailed
from phi3svc.service.remote_errors import error_of
from phi3svc.service.server import CLASSIFICATION, GENERATION, MODELS, SERVICES, serve
from phi3svc.v1 import generation_service_pb2_grpc, model_service_pb2
from tests.service.conftest import Harness
from tests.service.fake_engine import FakeEngine
from tests.service.test_generate import drain, failure, hang, until
from tests.service.test_validation import generate_request

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def check(harness: Harness, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(harness.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


def watch(harness: Harness, service: str = "") -> Any:
    stub = health_pb2_grpc.HealthStub(harness.channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service))


async def test_before_ready_health_is_down_and_work_is_refused(launch: Any) -> None:
    harness = await launch(is_started=False)
    watcher = watch(harness)
    assert (await watcher.read()).status == NOT_SERVING
    call = await failure(harness.generation.Generate(generate_request({})))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert str(error_of(call, "")) == "the server is starting"
    await harness.server.start()
    assert (await watcher.read()).status == SERVING
    assert [r async for r in harness.generation.Generate(generate_request({}))]
    watcher.cancel()


async def test_health_knows_every_service_and_no_other(harness: Harness) -> None:
    for service in ("", *SERVICES):
        assert await check(harness, service) == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(harness, "phi3svc.v1.NoService")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watcher = watch(harness, "phi3svc.v1.NoService")
    assert (await watcher.read()).status == UNKNOWN
    watcher.cancel()


async def test_health_is_down_for_a_service_without_a_model(
    launch: Any, infos: list[ModelInfo]
) -> None:
    harness = await launch(infos[:1])
    assert await check(harness) == SERVING
    assert await check(harness, GENERATION) == SERVING
    assert await check(harness, CLASSIFICATION) == NOT_SERVING


async def test_one_watcher_leaving_does_not_blind_another(harness: Harness) -> None:
    leaver, stayer = watch(harness), watch(harness)
    assert (await leaver.read()).status == SERVING
    assert (await stayer.read()).status == SERVING
    leaver.cancel()
    await asyncio.sleep(0.02)
    harness.engine.die()
    assert (await asyncio.wait_for(stayer.read(), 5)).status == NOT_SERVING
    stayer.cancel()


async def test_engine_death_takes_health_down(harness: Harness) -> None:
    harness.engine.die()
    await harness.server.wait_engine_dead()
    for service in ("", *SERVICES):
        assert await check(harness, service) == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await harness.models.ListModels(model_service_pb2.ListModelsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_services_and_describes_them(harness: Harness, version: str) -> None:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    ask = harness.channel.stream_stream(
        path,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=GENERATION)

    listed, described = [answer async for answer in ask(questions())]
    names = {service.name for service in listed.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_port_zero_reports_the_real_port(launch: Any) -> None:
    harness = await launch(listen="127.0.0.1:0")
    host, _, port = harness.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert await check(harness) == SERVING


async def test_several_addresses_serve_the_same_models(
    infos: list[ModelInfo], tmp_path: Path
) -> None:
    addresses: list[str] = []
    config = ServerConfig(listen=("127.0.0.1:0", f"unix:{tmp_path}/a.sock"), grace_s=1)
    serving = asyncio.create_task(serve(config, FakeEngine(infos), addresses.extend))
    await until(lambda: bool(addresses))
    for address in addresses:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
    os.kill(os.getpid(), signal.SIGTERM)
    await serving


async def test_a_busy_port_is_a_one_line_config_error(launch: Any, infos: list[ModelInfo]) -> None:
    first = await launch(listen="127.0.0.1:0")
    with pytest.raises(ConfigError, match="address already in use") as caught:
        await launch(listen=first.address)
    assert "\n" not in str(caught.value)
    assert first.address in str(caught.value)


async def test_a_port_in_use_by_another_program_is_a_config_error(launch: Any) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(ConfigError, match="address already in use"),
    ):
        await launch(listen=f"127.0.0.1:{other.getsockname()[1]}")


async def test_a_live_unix_socket_is_not_taken_over(launch: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/live.sock"
    first = await launch(listen=address)
    with pytest.raises(ConfigError, match="address already in use"):
        await launch(listen=address)
    assert await check(first) == SERVING


async def test_a_stale_unix_socket_is_replaced(launch: Any, tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    assert await check(await launch(listen=f"unix:{path}")) == SERVING


@pytest.mark.parametrize(
    "listen", ["203.0.113.1:0", "no-such-host.invalid:0", "unix:/no/such/folder/a.sock"]
)
async def test_an_impossible_address_is_a_config_error(launch: Any, listen: str) -> None:
    with pytest.raises(ConfigError, match="listen=") as caught:
        await launch(listen=listen)
    assert "\n" not in str(caught.value)


async def test_stopping_lets_a_running_stream_finish(harness: Harness) -> None:
    may_end = asyncio.Event()

    async def pause(engine: FakeEngine, request: Any) -> None:
        engine.say(request, "half")
        await may_end.wait()
        engine.say(request, " whole", "stop_token")

    harness.engine.script = pause
    watcher = watch(harness)
    assert (await watcher.read()).status == SERVING
    call = harness.generation.Generate(generate_request({}))
    assert (await call.read()).HasField("started")
    stopping = asyncio.create_task(harness.server.stop(30))
    assert (await watcher.read()).status == NOT_SERVING
    refused = await failure(harness.generation.Generate(generate_request({})))
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert "draining" in refused.details()
    assert not stopping.done()
    may_end.set()
    responses = await drain(call)
    assert "".join(r.delta.text for r in responses) == "half whole"
    assert responses[-1].HasField("completed")
    await asyncio.wait_for(stopping, 5)


async def test_a_stream_beyond_the_grace_ends_with_a_status(harness: Harness) -> None:
    harness.engine.script = hang
    call = harness.generation.Generate(generate_request({}))
    await call.read()
    await asyncio.wait_for(harness.server.stop(0.05), 5)
    error = await failure(call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "stopped before the answer was complete" in error.details()
    assert len(harness.engine.cancelled) == 1


async def run_serve(
    infos: list[ModelInfo], tmp_path: Path, grace_s: float
) -> tuple[asyncio.Task[None], FakeEngine, str]:
    addresses: list[str] = []
    engine = FakeEngine(infos)
    config = ServerConfig(listen=(f"unix:{tmp_path}/serve.sock",), grace_s=grace_s)
    serving = asyncio.create_task(serve(config, engine, addresses.extend))
    await until(lambda: bool(addresses))
    return serving, engine, addresses[0]


async def test_a_second_signal_cuts_the_grace_short(infos: list[ModelInfo], tmp_path: Path) -> None:
    serving, engine, address = await run_serve(infos, tmp_path, grace_s=60)
    engine.script = hang
    async with grpc.aio.insecure_channel(address) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        call = stub.Generate(generate_request({}))
        await call.read()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert not serving.done()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await failure(call)).code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(serving, 5)


async def test_serve_fails_when_its_engine_dies(infos: list[ModelInfo], tmp_path: Path) -> None:
    serving, engine, _ = await run_serve(infos, tmp_path, grace_s=1)
    engine.die()
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(serving, 5)


async def test_a_signal_while_loading_ends_the_server(
    infos: list[ModelInfo], tmp_path: Path
) -> None:
    engine = FakeEngine(infos)
    engine.may_start.clear()
    config = ServerConfig(listen=(f"unix:{tmp_path}/loading.sock",))
    is_ready: list[str] = []
    serving = asyncio.create_task(serve(config, engine, is_ready.extend))
    await until(lambda: (tmp_path / "loading.sock").exists())
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(serving, 5)
    assert is_ready == []


async def test_requests_beyond_the_size_limit_are_refused(harness: Harness) -> None:
    request = generate_request({"prompt": "x" * (5 << 20)})
    call = await failure(harness.generation.Generate(request))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_small_message_that_unpacks_beyond_the_limit_is_refused(harness: Harness) -> None:
    call = harness.generation.Generate(
        generate_request({"prompt": "x" * (5 << 20)}), compression=grpc.Compression.Gzip
    )
    assert (await failure(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_oversized_metadata_is_refused(harness: Harness) -> None:
    call = harness.generation.Generate(
        generate_request({}), metadata=[(f"x-{i}", "v" * 1000) for i in range(64)]
    )
    assert (await failure(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await check(harness) == SERVING


async def test_an_unknown_method_is_unimplemented(harness: Harness) -> None:
    call = harness.channel.unary_unary(f"/{MODELS}/Nope")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_malformed_bytes_are_refused_and_harm_nobody(harness: Harness) -> None:
    call = harness.channel.unary_unary(f"/{MODELS}/ListModels")
    with pytest.raises(grpc.aio.AioRpcError):
        await call(b"\xff\xff\xff\xff")
    assert await check(harness) == SERVING


def test_the_service_never_imports_torch() -> None:
    code = (
        "import sys, phi3svc.service.server, phi3svc.service.client; print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert result.stdout == b"False\n"
