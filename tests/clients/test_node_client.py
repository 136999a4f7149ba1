"""A client in another language, written from the protos alone, against the real server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from phi3svc.v1 import (
    classification_service_pb2,
    classification_service_pb2_grpc,
    generation_service_pb2,
    generation_service_pb2_grpc,
)

CLIENT = Path(__file__).parent / "node" / "client.js"
REQUEST = {
    "prompt": "The ",
    "sampling": {"temperature": 0.8, "seed": "12345678901234567890", "n": 2},
    "stop": {"max_new_tokens": 24, "ignore_eos": True},
    "output": {"token_ids": True, "logprobs": True, "top_logprobs": 2, "prompt_logprobs": True},
}

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def address(node_modules: Path) -> Iterator[str]:
    """Address of `phi3svc serve` with the embedded models."""
    with subprocess.Popen(
        [sys.executable, "-m", "phi3svc", "serve", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline().strip()
            assert line.startswith("listening on "), line
            yield line.removeprefix("listening on ")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


@pytest.fixture(scope="module")
def call(address: str) -> Call:
    """Runs the client against the server."""

    def run(method: str, request: object) -> subprocess.CompletedProcess[str]:
        command = ["node", str(CLIENT), address, method, json.dumps(request)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run


def responses(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_node_streams_the_tokens_that_python_gets(call: Call, address: str) -> None:
    events = responses(call("generate", REQUEST))

    request = generation_service_pb2.GenerateRequest(
        prompt=REQUEST["prompt"],
        sampling={"temperature": 0.8, "seed": 12345678901234567890, "n": 2},
        stop=REQUEST["stop"],
        output=REQUEST["output"],
    )
    with grpc.insecure_channel(address) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        expected = list(stub.Generate(request, timeout=60))

    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["started", "prompt_logprobs"]
    assert kinds[-1] == "completed"
    assert set(kinds[2:-1]) == {"delta", "finished"}
    numbers = [int(event.get("seq", 0)) for event in events]
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    assert events[0]["started"]["seed"] == REQUEST["sampling"]["seed"]  # type: ignore[index]
    piece = expected[1].prompt_logprobs
    assert events[1]["prompt_logprobs"] == {
        "start": 1,
        "logprobs": list(piece.logprobs),
        "top_logprobs": top(piece.top_logprobs),
    }
    for index in range(2):
        deltas = [
            e["delta"] for e in events if "delta" in e and e["delta"].get("index", 0) == index
        ]
        same = [r.delta for r in expected if r.HasField("delta") and r.delta.index == index]
        token_ids = [i for delta in deltas for i in delta["token_ids"]]
        assert len(token_ids) == 24
        assert token_ids == [i for delta in same for i in delta.token_ids]
        assert "".join(delta.get("text", "") for delta in deltas) == "".join(d.text for d in same)
        assert [x for delta in deltas for x in delta["logprobs"]] == [
            x for delta in same for x in delta.logprobs
        ]
        assert [place for delta in deltas for place in delta["top_logprobs"]] == top(
            [place for delta in same for place in delta.top_logprobs]
        )
    finished = {r.finished.index: r.finished for r in expected if r.HasField("finished")}
    assert [e["finished"] for e in events if "finished" in e] == [
        {"reason": "FINISH_REASON_LENGTH", "token_count": 24, "digest": finished[index].digest}
        | ({"index": index} if index else {})
        for index in [e["finished"].get("index", 0) for e in events if "finished" in e]
    ]
    assert len(finished) == 2
    assert events[-1]["completed"]["usage"]["generated_token_count"] == 48


def top(places: Iterable[generation_service_pb2.TopLogprobs]) -> list[dict[str, object]]:
    """As Node has them."""
    return [{"token_ids": list(p.token_ids), "logprobs": list(p.logprobs)} for p in places]


def test_node_classifies_as_python_does(call: Call, address: str) -> None:
    texts = ["What a wonderful day!", "This was dreadful."]
    (response,) = responses(call("classify", {"texts": texts}))
    with grpc.insecure_channel(address) as channel:
        stub = classification_service_pb2_grpc.ClassificationServiceStub(channel)
        expected = stub.Classify(
            classification_service_pb2.ClassifyRequest(texts=texts), timeout=60
        )
    assert [
        [(label["label"], label["score"]) for label in result["labels"]]
        for result in response["results"]
    ] == [[(label.label, label.score) for label in result.labels] for result in expected.results]
    assert len(response["results"]) == 2


def test_node_finds_entities_by_character(call: Call) -> None:
    text = "👍🏽 Anna lives in Paris."
    (response,) = responses(call("classifyTokens", {"texts": [text]}))
    tokens = response["results"][0]["tokens"]
    # Characters of protos are code points; JavaScript's own are UTF-16 units.
    assert [text[t.get("start", 0) : t["end"]] for t in tokens] == [t["text"] for t in tokens]


def test_node_reads_every_field_violation(call: Call) -> None:
    bad = {"prompt": "x", "sampling": {"top_p": 2, "temperature": -1}}
    done = call("generate", bad)
    assert (done.returncode, done.stdout) == (1, "")
    status = json.loads(done.stderr)
    assert status["code"] == "INVALID_ARGUMENT"
    violations = status["details"]["BadRequest"]["field_violations"]
    assert {violation["field"] for violation in violations} == {
        "sampling.top_p",
        "sampling.temperature",
    }
    assert all(violation["description"] for violation in violations)


def test_node_is_told_of_an_unknown_model(call: Call) -> None:
    done = call("classify", {"model": "nosuch", "texts": ["x"]})
    assert done.returncode == 1
    assert json.loads(done.stderr)["code"] == "NOT_FOUND"
