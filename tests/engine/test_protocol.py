"""Frames between front and engine process."""

from __future__ import annotations

import msgspec
import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.engine import protocol
from phi3svc.engine.events import FailedEvent, ScoresEvent, StepEvents, Timings, TokenEvent
from phi3svc.engine.protocol import (
    MAX_FRAME_BYTES,
    FrameReader,
    Load,
    LoadedModel,
    LoadFailed,
    LoadProgress,
    ModelSource,
    Ready,
    Shutdown,
    decode_from_engine,
    decode_to_engine,
    encode_frame,
)
from phi3svc.engine.request import CancelRequest, SamplingParams
from phi3svc.engine.worker import send_events
from phi3svc.errors import (
    ConfigError,
    EngineFailed,
    FieldViolation,
    InvalidRequest,
    Overloaded,
    Phi3Error,
    PromptTooLong,
    Unavailable,
    UnsupportedTask,
)
from tests.engine.requests import classify, generate

TO_ENGINE = [
    Load([ModelSource("a", "/tmp/a", "bfloat16")], EngineConfig(num_threads=3)),
    generate("r", [1, 2**31 - 1], 5, sampling=SamplingParams(0.5, 3, 0.9, 2**64 - 1)),
    classify("r", [1], per_token=True),
    CancelRequest("r"),
    Shutdown(),
]
TIMINGS = Timings(0.1, 0.2, 0.3, 4)
FROM_ENGINE = [
    LoadProgress("a", 1, 2**40),
    Ready([LoadedModel("a", 64, "float32", "00ff", ["generation"])]),
    LoadFailed("no such file", is_config=True),
    StepEvents(
        [
            TokenEvent("r", [1, 2], [-0.1, -0.2], "stop_token", TIMINGS),
            TokenEvent("s", [3]),
            ScoresEvent("t", [[0.5, -1.5]], TIMINGS),
            FailedEvent("u", "overloaded", "full", [], 2.0),
        ]
    ),
]


def test_messages_survive_the_trip_in_pieces_of_any_size() -> None:
    for messages, decode in ((TO_ENGINE, decode_to_engine), (FROM_ENGINE, decode_from_engine)):
        stream = b"".join(encode_frame(message) for message in messages)
        for size in (1, 3, 64, len(stream)):
            reader = FrameReader()
            pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
            payloads = [payload for piece in pieces for payload in reader.feed(piece)]
            assert [decode(payload) for payload in payloads] == messages


def test_a_frame_beyond_the_bound_is_refused_before_it_is_held() -> None:
    with pytest.raises(ValueError, match="not at most"):
        FrameReader().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


def test_events_too_large_for_one_frame_go_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_FRAME_BYTES", 200)
    small = [TokenEvent(name, list(range(50))) for name in "abc"]
    huge = ScoresEvent("d", [[0.5] * 50], TIMINGS)
    frames: list[bytes] = []
    send_events([*small, huge], lambda step: frames.append(encode_frame(step)))
    steps = [decode_from_engine(frame[4:]) for frame in frames]
    events = [event for step in steps if isinstance(step, StepEvents) for event in step.events]
    assert events[:3] == small
    assert isinstance(events[3], FailedEvent)
    assert isinstance(events[3].to_error(), InvalidRequest)
    assert len(events) == 4


@pytest.mark.parametrize(
    "message",
    [
        {"type": "generate", "request_id": "r"},
        {"type": "cancel", "request_id": ""},
        {"type": "cancel", "request_id": "r", "more": 1},
        {"type": "cancel", "request_id": "r" * 300},
        {"type": "classify", "request_id": "r", "model": "m", "prompt_ids": []},
        {"type": "classify", "request_id": "r", "model": "m", "prompt_ids": [-1]},
        {"type": "classify", "request_id": "r", "model": "m", "prompt_ids": ["1"]},
        {"type": "unheard of"},
        {},
        [1],
    ],
)
def test_decoding_is_strict(message: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_to_engine(msgspec.msgpack.encode(message))


def test_settings_are_checked_on_arrival() -> None:
    bad = {"type": "load", "models": [], "config": {"max_sequences": 0}}
    with pytest.raises(ConfigError, match=r"engine\.max_sequences=0: must be 1 to 65536"):
        decode_to_engine(msgspec.msgpack.encode(bad))


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest(FieldViolation("a", "b"), FieldViolation("c", "d")),
        PromptTooLong(FieldViolation("input", "too long")),
        UnsupportedTask("no head"),
        Overloaded("full", retry_after_s=7.0),
        Unavailable("draining"),
        EngineFailed("broken"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_the_boundary_whole(error: Phi3Error) -> None:
    copy = FailedEvent.from_error("r", error).to_error()
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_an_unexpected_error_is_an_internal_failure() -> None:
    assert isinstance(FailedEvent.from_error("r", KeyError("x")).to_error(), EngineFailed)
