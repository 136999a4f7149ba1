"""Every row of the table in `status.py`, decoded as a client sees it."""

from __future__ import annotations

import logging

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from phi3svc.errors import (
    AlreadyExists,
    EngineFailed,
    FieldViolation,
    InvalidRequest,
    NotFound,
    Overloaded,
    PromptTooLong,
    SlowReader,
    Unavailable,
    UnsupportedTask,
)
from phi3svc.service.status import MAX_REPORTED_VIOLATIONS, status_of

DETAILS = {
    "BadRequest": error_details_pb2.BadRequest,
    "ErrorInfo": error_details_pb2.ErrorInfo,
    "ResourceInfo": error_details_pb2.ResourceInfo,
    "RetryInfo": error_details_pb2.RetryInfo,
}


def decode(error: Exception) -> tuple[grpc.StatusCode, str, dict[str, object], dict[str, object]]:
    """Code, message, details by type name, trailers."""
    code, message, metadata = status_of(error)
    trailers = dict(metadata)
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (code.value[0], message)
    details = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        details[name] = DETAILS[name]()
        packed.Unpack(details[name])
    return code, message, details, trailers


@pytest.mark.parametrize(
    ("error", "code", "reason", "other_details"),
    [
        (InvalidRequest.of("a.b", "bad"), "INVALID_ARGUMENT", "INVALID_REQUEST", {"BadRequest"}),
        (
            PromptTooLong(FieldViolation("prompt", "9 tokens"), sizes={"prompt_token_count": 9}),
            "INVALID_ARGUMENT",
            "CONTEXT_LENGTH_EXCEEDED",
            {"BadRequest"},
        ),
        (NotFound("model", "mini"), "NOT_FOUND", "NOT_FOUND", {"ResourceInfo"}),
        (AlreadyExists("id 'a' is in use"), "ALREADY_EXISTS", "ALREADY_EXISTS", set()),
        (UnsupportedTask("no head"), "FAILED_PRECONDITION", "UNSUPPORTED_TASK", set()),
        (Overloaded("full", 2.5), "RESOURCE_EXHAUSTED", "OVERLOADED", {"RetryInfo"}),
        (SlowReader("3 messages"), "ABORTED", "SLOW_READER", set()),
        (Unavailable("draining"), "UNAVAILABLE", "UNAVAILABLE", {"RetryInfo"}),
        (EngineFailed("secret"), "INTERNAL", "INTERNAL", set()),
        (ZeroDivisionError("secret"), "INTERNAL", "INTERNAL", set()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_has_its_code_and_details(
    error: Exception, code: str, reason: str, other_details: set[str]
) -> None:
    actual_code, message, details, _ = decode(error)
    assert actual_code.name == code
    assert set(details) == other_details | {"ErrorInfo"}
    assert (details["ErrorInfo"].reason, details["ErrorInfo"].domain) == (reason, "phi3svc")
    assert "\n" not in message


def test_every_violation_is_reported_at_once() -> None:
    error = InvalidRequest(FieldViolation("sampling.top_p", "2"), FieldViolation("input", "unset"))
    _, message, details, _ = decode(error)
    violations = details["BadRequest"].field_violations
    assert [(v.field, v.description) for v in violations] == [
        ("sampling.top_p", "2"),
        ("input", "unset"),
    ]
    assert message == "sampling.top_p: 2; input: unset"


def test_prompt_too_long_carries_its_numbers() -> None:
    sizes = {"prompt_token_count": 70, "max_context_token_count": 64}
    _, _, details, _ = decode(PromptTooLong(FieldViolation("prompt", "too long"), sizes=sizes))
    assert dict(details["ErrorInfo"].metadata) == {
        "prompt_token_count": "70",
        "max_context_token_count": "64",
    }


def test_not_found_names_the_resource() -> None:
    _, message, details, _ = decode(NotFound("model", "mini", ("demo",)))
    assert (details["ResourceInfo"].resource_type, details["ResourceInfo"].resource_name) == (
        "model",
        "mini",
    )
    assert message == "model 'mini' not found; known: demo"


def test_overloaded_says_when_to_retry() -> None:
    _, _, details, trailers = decode(Overloaded("full", 2.5))
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 2500
    assert trailers["grpc-retry-pushback-ms"] == "2500"


def test_internal_errors_show_an_id_and_log_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        try:
            raise KeyError("secret-path")
        except KeyError as error:
            _, message, details, trailers = decode(error)
    error_id = details["ErrorInfo"].metadata["error_id"]
    assert message == f"internal error {error_id}"
    assert b"secret-path" not in trailers["grpc-status-details-bin"]
    assert error_id in caplog.text
    assert "secret-path" in caplog.text


def test_worst_case_fits_the_trailers_of_a_default_client() -> None:
    violations = [FieldViolation("é" * 5000, "é" * 5000)] * 1000
    _, message, details, trailers = decode(InvalidRequest(*violations))
    assert len(details["BadRequest"].field_violations) == MAX_REPORTED_VIOLATIONS
    assert "985 more" in details["BadRequest"].field_violations[-1].description
    as_header = len(message.encode()) * 3 + len(trailers["grpc-status-details-bin"]) * 4 // 3
    assert as_header < 8_000
