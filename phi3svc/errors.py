"""The one error tree. `service/status.py` alone turns it into gRPC statuses.

Phi3Error
├─ ConfigError              start-up: the process exits 2 with this one line
├─ InvalidRequest           the caller's mistake; carries every field violation at once
│  └─ PromptTooLong         prompt, or prompt and answer, exceed the model's context
├─ NotFound                 unknown model, adapter or request
├─ AlreadyExists            a request of that id is running
├─ UnsupportedTask          the model exists and has no head for this RPC
├─ Overloaded               bounded queue full; says when to retry
├─ DeadlineExceeded         the request's deadline passed before its answer was complete
├─ SlowReader               the caller stopped reading its stream for too long
├─ Unavailable              starting, draining, or the engine is gone
└─ EngineFailed             our fault; logged with an id, the text stays inside
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class Phi3Error(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(Phi3Error):
    """A setting, path or checkpoint is wrong; the message is one line naming it."""


@dataclass(frozen=True)
class FieldViolation:
    """One bad field of a request.

    field: dotted path as in the proto, `sampling.top_p`; description: value and allowed range.
    """

    field: str
    description: str


class InvalidRequest(Phi3Error, ValueError):
    """A request breaks its contract. `violations` lists every bad field.

    Also a ValueError, which is what scripts that were written for transformers catch.
    """

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        """The common case of a single bad field."""
        return cls(FieldViolation(field, description))


class PromptTooLong(InvalidRequest):
    """The prompt, or the prompt and the answer asked for, exceed the model's context.

    `sizes`: the numbers that collide, for programs: `prompt_token_count` and the like.
    """

    def __init__(self, *violations: FieldViolation, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__(*violations)
        self.sizes = dict(sizes or {})


class NotFound(Phi3Error):
    """A model, adapter or request that is not there. `kind` and `name` say which."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...] = ()) -> None:
        hint = f"; known: {', '.join(known)}" if known else ""
        super().__init__(f"{kind} {name!r} not found{hint}")
        self.kind = kind
        self.name = name


class AlreadyExists(Phi3Error):
    """Something of that name is there already: a request id in use."""


class UnsupportedTask(Phi3Error):
    """The model has no head for what was asked of it."""


class Overloaded(Phi3Error):
    """A bounded queue is full. `retry_after_s`: seconds until a retry may succeed."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Phi3Error):
    """The caller's deadline passed before the answer was complete."""


class SlowReader(Phi3Error):
    """The caller did not read its stream for too long; the rest of the answer is given up."""


class Unavailable(Phi3Error):
    """The service is starting, draining, or its engine is gone."""


class EngineFailed(Phi3Error):
    """An internal failure; clients see an id, the log has the traceback."""
