"""Every bound of every field, just inside and just outside, over a real server."""

from __future__ import annotations

import math
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from phi3svc.service.validation import MAX_TEXT_BYTES
from phi3svc.v1 import classification_service_pb2, generation_service_pb2, tokenizer_service_pb2
from tests.service.conftest import Harness
from tests.service.fake_engine import CONTEXT_LEN, VOCAB

V = len(VOCAB)
USER = {"role": "user", "content": "hi"}

# (overrides of a valid request, the one bad field)
BAD_GENERATE: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "input"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * (MAX_TEXT_BYTES + 1)}, "prompt"),
    ({"prompt": "é" * (MAX_TEXT_BYTES // 2 + 1)}, "prompt"),
    ({"request_id": "x" * 129}, "request_id"),
    ({"request_id": "a\nb"}, "request_id"),
    ({"request_id": "é"}, "request_id"),
    ({"priority": 101}, "priority"),
    ({"priority": -101}, "priority"),
    ({"cache_salt": "x" * 129}, "cache_salt"),
    ({"cache_salt": "a\tb"}, "cache_salt"),
    ({"token_ids": {}}, "token_ids.ids"),
    ({"token_ids": {"ids": [1, V]}}, "token_ids.ids[1]"),
    ({"token_ids": {"ids": [2**32 - 1]}}, "token_ids.ids[0]"),
    ({"chat": {}}, "chat.messages"),
    ({"chat": {"messages": [USER] * 1025}}, "chat.messages"),
    ({"chat": {"messages": [{"role": "", "content": "hi"}]}}, "chat.messages[0].role"),
    ({"chat": {"messages": [USER, {"role": "User"}]}}, "chat.messages[1].role"),
    (
        {"chat": {"messages": [{"role": "user", "content": "x" * (MAX_TEXT_BYTES + 1)}]}},
        "chat.messages[0].content",
    ),
    ({"sampling": {"temperature": -0.001}}, "sampling.temperature"),
    ({"sampling": {"temperature": 100.5}}, "sampling.temperature"),
    ({"sampling": {"temperature": math.nan}}, "sampling.temperature"),
    ({"sampling": {"temperature": math.inf}}, "sampling.temperature"),
    ({"sampling": {"temperature": -math.inf}}, "sampling.temperature"),
    ({"sampling": {"top_p": 0}}, "sampling.top_p"),
    ({"sampling": {"top_p": 1.001}}, "sampling.top_p"),
    ({"sampling": {"top_p": -0.5}}, "sampling.top_p"),
    ({"sampling": {"top_p": math.nan}}, "sampling.top_p"),
    ({"sampling": {"top_p": math.inf}}, "sampling.top_p"),
    ({"sampling": {"min_p": -0.001}}, "sampling.min_p"),
    ({"sampling": {"min_p": 1.001}}, "sampling.min_p"),
    ({"sampling": {"min_p": math.nan}}, "sampling.min_p"),
    ({"sampling": {"typical_p": 0}}, "sampling.typical_p"),
    ({"sampling": {"typical_p": 1.001}}, "sampling.typical_p"),
    ({"sampling": {"typical_p": math.nan}}, "sampling.typical_p"),
    ({"sampling": {"repetition_penalty": 0}}, "sampling.repetition_penalty"),
    ({"sampling": {"repetition_penalty": 100.1}}, "sampling.repetition_penalty"),
    ({"sampling": {"repetition_penalty": math.inf}}, "sampling.repetition_penalty"),
    ({"sampling": {"presence_penalty": -2.01}}, "sampling.presence_penalty"),
    ({"sampling": {"presence_penalty": math.nan}}, "sampling.presence_penalty"),
    ({"sampling": {"frequency_penalty": 2.01}}, "sampling.frequency_penalty"),
    ({"sampling": {"frequency_penalty": -math.inf}}, "sampling.frequency_penalty"),
    ({"sampling": {"logit_bias": {1: 100.5}}}, "sampling.logit_bias[1]"),
    ({"sampling": {"logit_bias": {1: math.nan}}}, "sampling.logit_bias[1]"),
    ({"sampling": {"logit_bias": {V: 0.5}}}, f"sampling.logit_bias[{V}]"),
    ({"sampling": {"logit_bias": dict.fromkeys(range(1025), 1.0)}}, "sampling.logit_bias"),
    ({"stop": {"min_new_tokens": CONTEXT_LEN}}, "stop.min_new_tokens"),
    ({"stop": {"min_new_tokens": 6, "max_new_tokens": 5}}, "stop.min_new_tokens"),
    ({"stop": {"max_new_tokens": 0}}, "stop.max_new_tokens"),
    ({"stop": {"max_new_tokens": CONTEXT_LEN}}, "stop.max_new_tokens"),
    ({"stop": {"max_new_tokens": 2**32 - 1}}, "stop.max_new_tokens"),
    ({"stop": {"strings": ["a"] * 65}}, "stop.strings"),
    ({"stop": {"strings": ["a", ""]}}, "stop.strings[1]"),
    ({"stop": {"strings": ["a" * 257]}}, "stop.strings[0]"),
    ({"stop": {"token_ids": [1] * 257}}, "stop.token_ids"),
    ({"stop": {"token_ids": [V]}}, "stop.token_ids[0]"),
    ({"sampling": {"n": 0}}, "sampling.n"),
    ({"sampling": {"n": 65}}, "sampling.n"),
    ({"sampling": {"n": 2**32 - 1}}, "sampling.n"),
    ({"output": {"top_logprobs": 21}}, "output.top_logprobs"),
    ({"output": {"coalesce_ms": 10_001}}, "output.coalesce_ms"),
]

GOOD_GENERATE: list[dict[str, Any]] = [
    {"model": "chat"},
    {"request_id": "x" * 128},
    {"request_id": "~ a!"},
    {"token_ids": {"ids": [0, V - 1]}},
    {"token_ids": {"ids": [9] * (CONTEXT_LEN - 1)}},
    {"chat": {"messages": [USER]}},
    {"sampling": {"temperature": 0}},
    {"sampling": {"temperature": 100}},
    {"sampling": {"top_k": 0}},
    {"sampling": {"top_k": 2**32 - 1}},
    {"sampling": {"top_p": 1}},
    {"sampling": {"top_p": 1e-6}},
    {"sampling": {"seed": 0}},
    {"sampling": {"seed": 2**64 - 1}},
    {"sampling": {"min_p": 0}},
    {"sampling": {"min_p": 1}},
    {"sampling": {"typical_p": 1}},
    {"sampling": {"typical_p": 1e-6}},
    {"sampling": {"repetition_penalty": 0.011}},
    {"sampling": {"repetition_penalty": 100}},
    {"sampling": {"presence_penalty": -2, "frequency_penalty": 2}},
    {"sampling": {"logit_bias": {0: -100.0, V - 1: 100.0}}},
    {"stop": {"min_new_tokens": 5, "max_new_tokens": 5}},
    {"stop": {"min_new_tokens": CONTEXT_LEN - 2}},
    {"stop": {"max_new_tokens": 1}},
    {"stop": {"max_new_tokens": CONTEXT_LEN - 2}},
    {"stop": {"strings": ["q"] * 64}},
    {"stop": {"strings": ["q" * 256]}},
    {"stop": {"token_ids": [V - 1] * 256}},
    {"output": {"coalesce_ms": 1, "logprobs": True, "token_ids": True}},
    {"sampling": {"n": 1}},
    {"sampling": {"n": 64}},
    {"output": {"top_logprobs": 20, "prompt_logprobs": True}},
]

BAD_TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"texts": []}, "texts"),
    ({"texts": ["a"] * 257}, "texts"),
    ({"texts": ["a", ""]}, "texts[1]"),
    ({"texts": ["a" * (CONTEXT_LEN + 1)]}, "texts[0]"),
    ({"texts": ["x" * (MAX_TEXT_BYTES + 1)]}, "texts[0]"),
    ({"request_id": "x" * 129}, "request_id"),
]


def generate_request(overrides: dict[str, Any]) -> generation_service_pb2.GenerateRequest:
    """A valid request with some fields replaced; an input replaces the prompt."""
    fields: dict[str, Any] = {"prompt": "hi", **overrides}
    if {"token_ids", "chat"} & set(overrides) or fields["prompt"] is None:
        del fields["prompt"]
    request = generation_service_pb2.GenerateRequest()
    for name, value in fields.items():
        _set(request, name, value)
    return request


def _set(message: Any, name: str, value: Any) -> None:
    if name == "logit_bias":
        message.logit_bias.update(value)
    elif isinstance(value, dict):
        inner = getattr(message, name)
        inner.SetInParent()
        for key, item in value.items():
            _set(inner, key, item)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            json_format.ParseDict(item, getattr(message, name).add())
    elif isinstance(value, list):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


async def violations_of(call: Any) -> dict[str, str]:
    """The BadRequest of a call that must fail with INVALID_ARGUMENT."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [response async for response in call] if hasattr(call, "read") else await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    bad_request = error_details_pb2.BadRequest()
    status = rpc_status.from_call(caught.value)
    assert any(detail.Unpack(bad_request) for detail in status.details)
    return {v.field: v.description for v in bad_request.field_violations}


@pytest.mark.parametrize(("overrides", "field"), BAD_GENERATE, ids=lambda v: str(v)[:50])
async def test_generate_refuses(harness: Harness, overrides: dict[str, Any], field: str) -> None:
    violations = await violations_of(harness.generation.Generate(generate_request(overrides)))
    assert list(violations) == [field]
    assert "must" in violations[field]
    assert harness.engine.requests == []


@pytest.mark.parametrize("overrides", GOOD_GENERATE, ids=lambda v: str(v)[:50])
async def test_generate_accepts(harness: Harness, overrides: dict[str, Any]) -> None:
    call = harness.generation.Generate(generate_request(overrides))
    events = [response.WhichOneof("event") async for response in call]
    assert (events[0], events[-1]) == ("started", "completed")


async def test_generate_reports_all_violations_with_value_and_range(harness: Harness) -> None:
    overrides = {
        "prompt": None,
        "request_id": "x" * 200,
        "sampling": {
            "temperature": 101,
            "top_p": 0,
            "typical_p": 2,
            "min_p": 2,
            "repetition_penalty": 0,
            "presence_penalty": 3,
            "frequency_penalty": 4,
            "logit_bias": {V: 0.0},
            "n": 100,
        },
        "stop": {"max_new_tokens": 0, "strings": [""], "token_ids": [V]},
        "output": {"coalesce_ms": 20_000, "top_logprobs": 30},
    }
    violations = await violations_of(harness.generation.Generate(generate_request(overrides)))
    assert violations == {
        "request_id": "200 characters, must be at most 128",
        "input": "unset, one of prompt, chat or token_ids must be given",
        "sampling.temperature": "101, must be 0 to 100",
        "sampling.top_p": "0, must be above 0 and at most 1",
        "sampling.typical_p": "2, must be above 0 and at most 1",
        "sampling.min_p": "2, must be 0 to 1",
        "sampling.repetition_penalty": "0, must be 0.01 to 100",
        "sampling.presence_penalty": "3, must be -2 to 2",
        "sampling.frequency_penalty": "4, must be -2 to 2",
        f"sampling.logit_bias[{V}]": f"token {V}, must be 0 to {V - 1}",
        "stop.max_new_tokens": f"0, must be 1 to {CONTEXT_LEN - 1}",
        "stop.strings[0]": "0 characters, must be 1 to 256",
        "stop.token_ids[0]": f"{V}, must be 0 to {V - 1}",
        "sampling.n": "100, must be 1 to 64",
        "output.top_logprobs": "30, must be 0 to 20",
        "output.coalesce_ms": "20000, must be 0 to 10000",
    }


@pytest.mark.parametrize("rpc", ["Classify", "ClassifyTokens"])
@pytest.mark.parametrize(("overrides", "field"), BAD_TEXTS, ids=lambda v: str(v)[:40])
async def test_classification_refuses(
    harness: Harness, rpc: str, overrides: dict[str, Any], field: str
) -> None:
    request_type = getattr(classification_service_pb2, f"{rpc}Request")
    request = request_type(**{"texts": ["hi"], **overrides})
    violations = await violations_of(getattr(harness.classification, rpc)(request))
    assert list(violations) == [field]
    assert harness.engine.requests == []


@pytest.mark.parametrize(
    ("rpc", "fields", "bad"),
    [
        ("Tokenize", {"text": "x" * (MAX_TEXT_BYTES + 1)}, "text"),
        ("Detokenize", {"token_ids": [0, V]}, "token_ids[1]"),
        ("RenderChat", {}, "chat.messages"),
    ],
)
async def test_tokenizer_service_refuses(
    harness: Harness, rpc: str, fields: dict[str, Any], bad: str
) -> None:
    request = getattr(tokenizer_service_pb2, f"{rpc}Request")(model="chat", **fields)
    assert list(await violations_of(getattr(harness.tokenizer, rpc)(request))) == [bad]


async def test_an_ambiguous_model_is_a_violation_naming_the_choices(harness: Harness) -> None:
    request = tokenizer_service_pb2.TokenizeRequest(text="x" * (MAX_TEXT_BYTES + 1))
    violations = await violations_of(harness.tokenizer.Tokenize(request))
    assert set(violations) == {"model", "text"}
    assert violations["model"] == "empty, must be one of chat, mood, names"
