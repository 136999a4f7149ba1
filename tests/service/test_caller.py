"""The headers of a call."""

from __future__ import annotations

import time

import grpc
import pytest

from phi3svc.engine.events import FailedEvent
from phi3svc.errors import DeadlineExceeded, InvalidRequest
from phi3svc.service.caller import tenant_of
from phi3svc.v1 import classification_service_pb2
from tests.service.conftest import Harness
from tests.service.fake_engine import FakeEngine, Request
from tests.service.test_generate import drain, failure
from tests.service.test_validation import generate_request


def test_without_a_header_the_tenant_has_no_name() -> None:
    assert tenant_of([("user-agent", "x")]) == ""


@pytest.mark.parametrize("tenant", ["a", "Team_7@acme.example:search/v1-beta", "x" * 128])
def test_a_tenant_is_taken_as_it_is(tenant: str) -> None:
    assert tenant_of([("x-tenant-id", tenant)]) == tenant


@pytest.mark.parametrize("tenant", ["", "x" * 129, "a b", "a\n", "é", "a;b", b"raw"])
def test_a_tenant_out_of_bounds_is_refused(tenant: str | bytes) -> None:
    with pytest.raises(InvalidRequest, match="x-tenant-id: must be 1 to 128"):
        tenant_of([("x-tenant-id", tenant)])


def test_two_tenants_are_one_too_many() -> None:
    with pytest.raises(InvalidRequest, match="given 2 times"):
        tenant_of([("x-tenant-id", "a"), ("x-tenant-id", "a")])


async def test_a_bad_header_fails_the_call_before_it_costs_anything(harness: Harness) -> None:
    metadata = (("x-tenant-id", "two words"),)
    error = await failure(harness.generation.Generate(generate_request({}), metadata=metadata))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    request = classification_service_pb2.ClassifyRequest(texts=["+"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await harness.classification.Classify(request, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not harness.engine.requests
    await drain(harness.generation.Generate(generate_request({})))
    assert len(harness.engine.requests) == 1


async def test_every_text_has_the_deadline_of_its_call(harness: Harness) -> None:
    assert await harness.client.classify(["a+", "b-"], timeout_s=60)
    assert await harness.client.classify_tokens(["Ab"])
    deadlines = [request.deadline_s for request in harness.engine.requests]
    assert deadlines[0] is not None
    # gRPC rounds a timeout up on its way, by up to a hundredth.
    assert deadlines[0] == deadlines[1] <= time.monotonic() + 61
    assert deadlines[2] is None


async def test_a_deadline_that_the_engine_sees_first_has_the_same_status(harness: Harness) -> None:
    async def expire(engine: FakeEngine, request: Request) -> None:
        error = DeadlineExceeded("3 tokens were generated until the deadline")
        engine._dispatch([FailedEvent.from_error(request.request_id, error)])

    harness.engine.script = expire
    error = await failure(harness.generation.Generate(generate_request({})))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "3 tokens were generated until the deadline"
