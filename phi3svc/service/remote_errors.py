"""The way back of `status.py`: a failed call as one of our errors, each with a one-line message."""

from __future__ import annotations

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from phi3svc.errors import (
    AlreadyExists,
    DeadlineExceeded,
    EngineFailed,
    FieldViolation,
    InvalidRequest,
    NotFound,
    Overloaded,
    Phi3Error,
    PromptTooLong,
    SlowReader,
    Unavailable,
    UnsupportedTask,
)

_PLAIN_ERRORS: dict[grpc.StatusCode, type[Phi3Error]] = {
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.FAILED_PRECONDITION: UnsupportedTask,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.ABORTED: SlowReader,
    grpc.StatusCode.INTERNAL: EngineFailed,
}


class CallError(Phi3Error):
    """A call ended with a status that is none of the service's own, such as CANCELLED."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}" if message else code.name)
        self.code = code


def error_of(call: grpc.aio.AioRpcError, address: str) -> Phi3Error:
    """The error that the server raised, rebuilt from status and details."""
    code, message = call.code(), " ".join((call.details() or "").split())
    details = _Details(call)
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT if details.violations:
            if details.info.reason == "CONTEXT_LENGTH_EXCEEDED":
                sizes = {key: int(value) for key, value in details.info.metadata.items()}
                return PromptTooLong(*details.violations, sizes=sizes)
            return InvalidRequest(*details.violations)
        case grpc.StatusCode.NOT_FOUND if details.resource.resource_type:
            error = NotFound(details.resource.resource_type, details.resource.resource_name)
            error.args = (message,)
            return error
        case grpc.StatusCode.RESOURCE_EXHAUSTED if details.retry_after_s is not None:
            return Overloaded(message, details.retry_after_s)
        case grpc.StatusCode.UNAVAILABLE if not details.info.reason:
            return Unavailable(f"cannot reach {address}: {message}")
        case _ if code in _PLAIN_ERRORS and details.info.reason:
            return _PLAIN_ERRORS[code](message)
        case _:
            return CallError(code, message)


class _Details:
    """The rich details of a failed call; empty where the server sent none."""

    def __init__(self, call: grpc.aio.AioRpcError) -> None:
        self.info = error_details_pb2.ErrorInfo()
        self.resource = error_details_pb2.ResourceInfo()
        self.violations: list[FieldViolation] = []
        self.retry_after_s: float | None = None
        status = rpc_status.from_call(call)
        for detail in status.details if status is not None else ():
            detail.Unpack(self.info)
            detail.Unpack(self.resource)
            bad_request = error_details_pb2.BadRequest()
            if detail.Unpack(bad_request):
                self.violations = [
                    FieldViolation(v.field, v.description) for v in bad_request.field_violations
                ]
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                self.retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
