"""The one place where errors become gRPC statuses, with rich details.

| error            | code                | details                                             |
|------------------|---------------------|-----------------------------------------------------|
| InvalidRequest   | INVALID_ARGUMENT    | BadRequest, ErrorInfo INVALID_REQUEST               |
| PromptTooLong    | INVALID_ARGUMENT    | BadRequest, ErrorInfo CONTEXT_LENGTH_EXCEEDED       |
| NotFound         | NOT_FOUND           | ResourceInfo, ErrorInfo NOT_FOUND                   |
| AlreadyExists    | ALREADY_EXISTS      | ErrorInfo ALREADY_EXISTS                            |
| UnsupportedTask  | FAILED_PRECONDITION | ErrorInfo UNSUPPORTED_TASK                          |
| Overloaded       | RESOURCE_EXHAUSTED  | RetryInfo, ErrorInfo OVERLOADED, pushback trailer   |
| DeadlineExceeded | DEADLINE_EXCEEDED   | ErrorInfo DEADLINE_EXCEEDED                         |
| Unavailable      | UNAVAILABLE         | RetryInfo, ErrorInfo UNAVAILABLE                    |
| everything else  | INTERNAL            | ErrorInfo INTERNAL with an id; the log has the rest |

Details travel as `google.rpc.Status` in the trailer `grpc-status-details-bin`.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Iterable

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from phi3svc.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    NotFound,
    Overloaded,
    PromptTooLong,
    SlowReader,
    Unavailable,
    UnsupportedTask,
)

ERROR_DOMAIN = "phi3svc"
RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"
# A restarted or drained replica is replaced within seconds; sooner retries only add load.
UNAVAILABLE_RETRY_S = 1.0
# Clients may reject more than 8 KiB of trailers. Details travel in base64, and the message once
# more, percent-encoded at up to three times its length; these limits keep the worst case below.
MAX_REPORTED_VIOLATIONS = 16
MAX_DESCRIPTION_BYTES = 160
MAX_FIELD_BYTES = 100
MAX_MESSAGE_BYTES = 300

_log = logging.getLogger("phi3svc.service")

Metadata = tuple[tuple[str, str | bytes], ...]


def status_of(error: Exception) -> tuple[grpc.StatusCode, str, Metadata]:
    """Code, one-line message and trailing metadata for an error that ended an RPC.

    Anything not meant for callers becomes INTERNAL with an id; call it from the `except` block,
    since it logs the traceback under that id.
    """
    code, message, details = _describe(error)
    message = clip(message, MAX_MESSAGE_BYTES)
    rich = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        rich.details.add().Pack(detail)
    status = rpc_status.to_status(rich)
    metadata = tuple((key, value) for key, value in status.trailing_metadata)
    if isinstance(error, Overloaded):
        metadata += ((RETRY_PUSHBACK_KEY, str(math.ceil(error.retry_after_s * 1000))),)
    return code, message, metadata


def clip(text: str, max_bytes: int) -> str:
    """`text`, or its beginning and an ellipsis when longer than `max_bytes` in UTF-8."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - 3].decode(errors="ignore") + "…"


def _describe(error: Exception) -> tuple[grpc.StatusCode, str, list[Message]]:
    match error:
        case PromptTooLong():
            sizes = {key: str(value) for key, value in error.sizes.items()}
            info = _info("CONTEXT_LENGTH_EXCEEDED", sizes)
            details = [_bad_request(error.violations), info]
            return grpc.StatusCode.INVALID_ARGUMENT, str(error), details
        case InvalidRequest():
            details = [_bad_request(error.violations), _info("INVALID_REQUEST")]
            return grpc.StatusCode.INVALID_ARGUMENT, str(error), details
        case NotFound():
            resource = error_details_pb2.ResourceInfo(
                resource_type=error.kind,
                resource_name=clip(error.name, MAX_DESCRIPTION_BYTES),
                description="not found",
            )
            return grpc.StatusCode.NOT_FOUND, str(error), [resource, _info("NOT_FOUND")]
        case AlreadyExists():
            return grpc.StatusCode.ALREADY_EXISTS, str(error), [_info("ALREADY_EXISTS")]
        case UnsupportedTask():
            code = grpc.StatusCode.FAILED_PRECONDITION
            return code, str(error), [_info("UNSUPPORTED_TASK")]
        case Overloaded():
            details = [_retry(error.retry_after_s), _info("OVERLOADED")]
            return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), details
        case DeadlineExceeded():
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            return code, str(error), [_info("DEADLINE_EXCEEDED")]
        case SlowReader():
            # As gRPC advises where not the call but something at a higher level is to be retried:
            # the same call, read as slowly, ends the same way.
            return grpc.StatusCode.ABORTED, str(error), [_info("SLOW_READER")]
        case Unavailable():
            details = [_retry(UNAVAILABLE_RETRY_S), _info("UNAVAILABLE")]
            return grpc.StatusCode.UNAVAILABLE, str(error), details
        case _:
            error_id = secrets.token_hex(8)
            _log.error("internal error %s", error_id, exc_info=error)
            details = [_info("INTERNAL", {"error_id": error_id})]
            return grpc.StatusCode.INTERNAL, f"internal error {error_id}", details


def _bad_request(violations: tuple[FieldViolation, ...]) -> error_details_pb2.BadRequest:
    shown: Iterable[FieldViolation] = violations
    if len(violations) > MAX_REPORTED_VIOLATIONS:
        rest = len(violations) - MAX_REPORTED_VIOLATIONS + 1
        shown = (
            *violations[: MAX_REPORTED_VIOLATIONS - 1],
            FieldViolation("", f"and {rest} more violations"),
        )
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=clip(v.field, MAX_FIELD_BYTES),
                description=clip(v.description, MAX_DESCRIPTION_BYTES),
            )
            for v in shown
        ]
    )


def _info(reason: str, metadata: dict[str, str] | None = None) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata or {})


def _retry(after_s: float) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(math.ceil(after_s * 1000))
    return info
