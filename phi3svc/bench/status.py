"""The gRPC status that an error stands for, by name; also for errors that never met gRPC."""

from __future__ import annotations

from phi3svc.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    Overloaded,
    Phi3Error,
    Unavailable,
    UnsupportedTask,
)
from phi3svc.service.remote_errors import CallError


def status_name(error: Phi3Error) -> str:
    """As in the table of service/status.py."""
    match error:
        case CallError():
            return str(error.code.name)
        case InvalidRequest():
            return "INVALID_ARGUMENT"
        case NotFound():
            return "NOT_FOUND"
        case AlreadyExists():
            return "ALREADY_EXISTS"
        case UnsupportedTask():
            return "FAILED_PRECONDITION"
        case Overloaded():
            return "RESOURCE_EXHAUSTED"
        case Unavailable():
            return "UNAVAILABLE"
        case _:
            return "INTERNAL"
