"""Collects everything that is wrong with a request, so that the caller hears it all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from phi3svc.errors import FieldViolation, InvalidRequest

MAX_TEXT_BYTES = 1 << 20
MAX_REQUEST_ID_LEN = 128
# Enough to see the pattern; a list of a hundred thousand bad ids needs no line for each.
MAX_VIOLATIONS_PER_LIST = 8


class Violations:
    """Each check adds what it finds; `raise_if_any` ends the validation."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        self._found.append(FieldViolation(field, description))

    def raise_if_any(self) -> None:
        """Raises InvalidRequest with every violation."""
        if self._found:
            raise InvalidRequest(*self._found)

    def number(self, field: str, value: float, low: float, high: float) -> None:
        """`low` and `high` are allowed; NaN is not."""
        if not low <= value <= high:
            self.add(field, f"{_number(value)}, must be {_number(low)} to {_number(high)}")

    def count(self, field: str, items: Sequence[object], low: int, high: int) -> None:
        """How many items a list has."""
        if not low <= len(items) <= high:
            self.add(field, f"{len(items)} items, must be {low} to {high}")

    def token_ids(self, field: str, ids: Sequence[int], vocab_size: int) -> None:
        num_bad = 0
        for i, token_id in enumerate(ids):
            if token_id >= vocab_size:
                self.add(f"{field}[{i}]", f"{token_id}, must be 0 to {vocab_size - 1}")
                num_bad += 1
                if num_bad == MAX_VIOLATIONS_PER_LIST:
                    return

    def text(self, field: str, text: str) -> None:
        """The size of a text in UTF-8."""
        # A character has at most 4 bytes, so that short texts need no encoding.
        if len(text) * 4 > MAX_TEXT_BYTES and (num := len(text.encode())) > MAX_TEXT_BYTES:
            self.add(field, f"{num} bytes, must be at most {MAX_TEXT_BYTES}")

    def label(self, field: str, label: str, max_len: int) -> None:
        """A short text meant for programs and logs; may be empty."""
        if len(label) > max_len:
            self.add(field, f"{len(label)} characters, must be at most {max_len}")
        elif not (label.isascii() and label.isprintable()):
            self.add(field, f"{label!r}, must be printable ASCII")

    def request_id(self, request_id: str) -> None:
        self.label("request_id", request_id, MAX_REQUEST_ID_LEN)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) or not math.isfinite(value) else f"{value:g}"
