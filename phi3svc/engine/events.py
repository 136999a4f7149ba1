"""What an engine says about a request, and what the front makes of it.

`PromptEvent`, `TokenEvent`, `ScoresEvent` and `FailedEvent` cross the process boundary, one
`StepEvents` frame per engine step. `Started`, `PromptLogprobs`, `Delta`, `Finished` and `Completed`
are what `text_stream.generate_text` yields: the domain form of the response stream, without
sequence numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from phi3svc.errors import (
    DeadlineExceeded,
    EngineFailed,
    FieldViolation,
    InvalidRequest,
    Overloaded,
    Phi3Error,
    PromptTooLong,
    Unavailable,
    UnsupportedTask,
)

FinishReason = Literal["stop_token", "length"]
StreamEndReason = Literal["stop_token", "length", "stop_string"]
FailureKind = Literal[
    "invalid_request",
    "prompt_too_long",
    "unsupported_task",
    "overloaded",
    "deadline_exceeded",
    "unavailable",
    "engine_failed",
]


class Timings(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Seconds since the engine got the request, by its monotonic clock.

    queue_s: until its first token was scheduled; first_token_s: until the first token (or the
    scores) existed; total_s: until this event. num_preemptions: how often its KV blocks were taken.
    cached_prompt_token_count: tokens of the prompt that the prefix cache spared it.
    drafted_token_count, accepted_token_count: tokens of this sequence that speculation guessed, and
    how many of them were right.
    """

    queue_s: float
    first_token_s: float
    total_s: float
    num_preemptions: int = 0
    cached_prompt_token_count: int = 0
    drafted_token_count: int = 0
    accepted_token_count: int = 0


class TopLogprobs(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The most likely tokens in one place, most likely first; of equal ones the lowest id first.

    logprobs: natural logs of their probabilities under the model's raw logits.
    """

    token_ids: list[int]
    logprobs: list[float]


class PromptEvent(Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="prompt"):
    """Log probabilities of consecutive prompt tokens, before the first token of the answer.

    start: index in the prompt of the first one; the first event's is 1, the next begins where the
    one before ended. logprobs: one per token. top: as many, or none if not asked for.
    """

    request_id: str
    start: int
    logprobs: list[float]
    top: list[TopLogprobs] = []


class TokenEvent(Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="token"):
    """New tokens of one sequence, in order. The last has `finish`; first and last have `timings`.

    logprobs: natural log of each token's probability under the model's raw logits, one per token
    if the request wanted them, else empty. With finish `stop_token` the stop token is included.
    index: which of the request's sequences. top: one per token if wanted, else empty.
    """

    request_id: str
    token_ids: list[int]
    logprobs: list[float] = []
    finish: FinishReason | None = None
    timings: Timings | None = None
    index: int = 0
    top: list[TopLogprobs] = []


class ScoresEvent(Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="scores"):
    """The end of a classification. scores: [1 or num_tokens][num_labels] raw head outputs."""

    request_id: str
    scores: list[list[float]]
    timings: Timings


class FailedEvent(Struct, frozen=True, forbid_unknown_fields=True, array_like=True, tag="failed"):
    """The end of a request that failed. `to_error` gives the exception it stands for."""

    request_id: str
    kind: FailureKind
    message: str
    violations: list[tuple[str, str]] = []
    retry_after_s: float = 1.0

    @classmethod
    def from_error(cls, request_id: str, error: BaseException) -> FailedEvent:
        """The event for an error; anything outside the error tree is an internal failure."""
        kind = _FAILURE_KINDS.get(type(error), "engine_failed")
        violations = error.violations if isinstance(error, InvalidRequest) else ()
        return cls(
            request_id,
            kind,
            str(error),
            [(v.field, v.description) for v in violations],
            error.retry_after_s if isinstance(error, Overloaded) else 1.0,
        )

    def to_error(self) -> Phi3Error:
        match self.kind:
            case "invalid_request" | "prompt_too_long":
                error_type = InvalidRequest if self.kind == "invalid_request" else PromptTooLong
                return error_type(*(FieldViolation(*violation) for violation in self.violations))
            case "overloaded":
                return Overloaded(self.message, self.retry_after_s)
            case "deadline_exceeded":
                return DeadlineExceeded(self.message)
            case "unsupported_task":
                return UnsupportedTask(self.message)
            case "unavailable":
                return Unavailable(self.message)
            case "engine_failed":
                return EngineFailed(self.message)


_FAILURE_KINDS: dict[type[BaseException], FailureKind] = {
    InvalidRequest: "invalid_request",
    PromptTooLong: "prompt_too_long",
    UnsupportedTask: "unsupported_task",
    Overloaded: "overloaded",
    DeadlineExceeded: "deadline_exceeded",
    Unavailable: "unavailable",
}

EngineEvent = PromptEvent | TokenEvent | ScoresEvent | FailedEvent


class StepEvents(Struct, frozen=True, forbid_unknown_fields=True, tag="step"):
    """Everything one engine step has to say: one frame, one wake-up of the event loop."""

    events: list[EngineEvent]


@dataclass(frozen=True)
class Started:
    """The engine has accepted the request, and the first of what it asks for exists.

    cached_prompt_token_count: tokens of the prompt that had been computed for an earlier request.
    """

    request_id: str
    model: str
    seed: int
    prompt_token_count: int
    cached_prompt_token_count: int = 0


@dataclass(frozen=True)
class PromptLogprobs:
    """Log probabilities of consecutive prompt tokens: see `PromptEvent`."""

    start: int
    logprobs: tuple[float, ...]
    top: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True)
class Delta:
    """New tokens of one sequence and the text they complete.

    text never splits a character and may be empty while one, or a possible stop string, is held
    back; later deltas then bring it. logprobs, top: one per token, or empty if not asked for.
    index: which of the request's sequences.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    index: int = 0
    top: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True)
class Finished:
    """One sequence is complete.

    token_count: generated tokens, a stop token included. digest: hex SHA-256 over checkpoint,
    request and token ids; equal on every replica that gives the same answer. index: which sequence.
    """

    reason: StreamEndReason
    stop_string: str | None
    token_count: int
    digest: str
    index: int = 0


@dataclass(frozen=True)
class Completed:
    """Usage and timings in seconds, since the front opened the stream; the last event.

    queue_s: until the model first worked on it. first_token_s, total_s: until the first and the
    last token reached the front. The counts are sums over all sequences; drafted and accepted ones
    leave out what a stop string ended.
    """

    prompt_token_count: int
    completion_token_count: int
    queue_s: float
    first_token_s: float
    total_s: float
    drafted_token_count: int = 0
    accepted_token_count: int = 0


TextEvent = Started | PromptLogprobs | Delta | Finished | Completed
