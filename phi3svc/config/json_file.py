"""Reads JSON that came from outside: bounded, strict, and every failure one line."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, TypeGuard

from phi3svc.config.files import read_file
from phi3svc.errors import ConfigError

MAX_JSON_BYTES = 4 << 20


def read_json_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The JSON object in `path`. ConfigError if it is absent, too large, malformed or no object."""
    return parse_json_object(read_file(path, max_bytes), str(path))


def parse_json_object(data: bytes, where: str) -> dict[str, object]:
    """Parse `data` (UTF-8). A key given twice is an error: readers differ on which one counts."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ConfigError(f"{where}: key {reprlib.repr(twice)} is given twice")
        return values

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique)
        if "\\u" in text:  # which can write half a surrogate pair: no text, for whoever encodes it
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None
    except ValueError as error:  # also JSONDecodeError, UnicodeError, a number too long
        raise ConfigError(f"{where}: not valid JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: must hold a JSON object")
    return value


class Fields:
    """One JSON object read field by field; a bad value is a ConfigError naming it.

    `null` counts as absent. Booleans are not numbers, and numbers must be finite. `prefix` is put
    before names in messages, `rope_scaling.` for instance.
    """

    def __init__(self, values: Mapping[str, object], where: str, prefix: str = "") -> None:
        self.values = values
        self.where = where
        self.prefix = prefix

    def fail(self, name: str, expected: str) -> NoReturn:
        """Raise the one-line error for field `name`."""
        value = self.values.get(name)
        found = "is missing" if value is None else f"is {reprlib.repr(value)}"
        raise ConfigError(f"{self.where}: {self.prefix}{name} {found}; expected {expected}")

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not _is_integer(value) or not low <= value <= high:
            self.fail(name, f"an integer from {low} to {high}")
        return value

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self.optional_integer(name, low, high)
        if value is None:
            value = default
        if value is None:
            self.fail(name, f"an integer from {low} to {high}")
        return value

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        """A number with low < value <= high."""
        value = self.values.get(name)
        if value is None:
            return None
        if not _is_number_in(value, low, high):
            self.fail(name, f"a number above {low:g} and up to {high:g}")
        return float(value)

    def number(self, name: str, low: float, high: float, default: float) -> float:
        value = self.optional_number(name, low, high)
        return default if value is None else value

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(name, "true or false")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self.values.get(name, default)
        if value is None:
            value = default
        if not isinstance(value, str) or value not in allowed:
            self.fail(name, " or ".join(allowed))
        return value

    def numbers(self, name: str, length: int, low: float, high: float) -> tuple[float, ...]:
        """A list of exactly `length` numbers, each above `low` and up to `high`."""
        value = self.values.get(name)
        expected = f"a list of {length} numbers above {low:g} and up to {high:g}"
        if not isinstance(value, list):
            self.fail(name, expected)
        if len(value) != length:
            raise ConfigError(
                f"{self.where}: {self.prefix}{name} has {len(value)} numbers; expected {length}"
            )
        for i, item in enumerate(value):
            if not _is_number_in(item, low, high):
                raise ConfigError(
                    f"{self.where}: {self.prefix}{name}[{i}] is {reprlib.repr(item)}; "
                    f"expected {expected}"
                )
        return tuple(float(item) for item in value)

    def object(self, name: str) -> dict[str, object] | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(name, "an object or null")
        return value


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number_in(value: object, low: float, high: float) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low < value <= high  # also false of NaN
