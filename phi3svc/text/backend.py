"""Loads the tokenizer of the `tokenizers` library, and holds it to bounds on what it may do.

A tokenizer.json comes from outside. Its normalizer could make gigabytes of a short text, its added
tokens an automaton as large, and its model, its steps or its pattern could take for ever. Of the
last, the library bounds what one match may take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import tokenizers

from phi3svc.config.json_file import parse_json_object
from phi3svc.errors import ConfigError, Phi3Error

MODELS = ("BPE", "WordLevel")  # the others may take the square of a text's length, or more
MAX_GROWTH = 32  # of a text in a normalizer or decoder; Phi-3's may double one character
MAX_STEPS = 32  # each of which passes over the text; Phi-3's decoder has 4
MAX_TEMPLATE_TOKENS = 64
MAX_PIECE_LEN = 4096
MAX_ADDED_CHARS = 1 << 20

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")

# The most characters that one can become; of other steps one character at most.
_GROWTH = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Precompiled": 18,
    "Lowercase": 3,
    "BertNormalizer": 12,
    "ByteLevel": 4,
}


def load_backend(definition: str) -> tokenizers.Tokenizer:
    """definition: the text of a tokenizer.json. ConfigError in one line."""
    with fails_as(lambda reason: ConfigError(f"tokenizer.json: {reason}")):
        try:
            _check_definition(definition)
            backend = tokenizers.Tokenizer.from_str(definition)
        except ConfigError:
            raise
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise ConfigError(f"tokenizer.json: {_first_line(error)}") from None
    # Saved training settings would cut or pad requests, and draw lots between ways to spell them.
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None
    _check_bounds(backend)
    return backend


def component(backend: tokenizers.Tokenizer, name: str) -> dict[str, object]:
    """The object that a tokenizer.json has under `name`, `decoder` for one; empty if none."""
    part = getattr(backend, name)
    return {} if part is None else parse_json_object(part.__getstate__(), name)


@contextmanager
def fails_as(to_error: Callable[[str], Phi3Error]) -> Iterator[None]:
    """Raise `to_error(reason)` where the library gives up, as it does on a pattern without end.

    It panics then. In Python that is no Exception, so it would pass every handler of a server.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise to_error(_first_line(error)) from None


def _check_definition(definition: str) -> None:
    """What must be within bounds before the library builds anything from it."""
    parts = msgspec.json.decode(definition, type=dict[str, msgspec.Raw])
    checked = {
        name: msgspec.json.decode(parts[name])
        for name in (*_PARTS, "added_tokens")
        if name in parts
    }
    for name in _PARTS:
        if _num_steps(checked.get(name)) > MAX_STEPS:
            raise ConfigError(f"tokenizer.json: its {name} has more than {MAX_STEPS} steps")
    for name in ("normalizer", "decoder"):
        if _growth(checked.get(name)) > MAX_GROWTH:
            raise ConfigError(
                f"tokenizer.json: its {name} may make a text more than {MAX_GROWTH} times as long"
            )
    added = checked.get("added_tokens")
    if sum(map(_num_chars, added if isinstance(added, list) else ())) > MAX_ADDED_CHARS:
        raise ConfigError(f"tokenizer.json: more than {MAX_ADDED_CHARS} characters of added tokens")


def _num_chars(token: object) -> int:
    content = token.get("content") if isinstance(token, dict) else None
    return 1 + len(content) if isinstance(content, str) else 1


def _check_bounds(backend: tokenizers.Tokenizer) -> None:
    kind = type(backend.model).__name__
    if kind not in MODELS:
        raise ConfigError(f"tokenizer.json: its model is {kind}; expected {' or '.join(MODELS)}")
    if backend.num_special_tokens_to_add(is_pair=False) > MAX_TEMPLATE_TOKENS:
        raise ConfigError(
            f"tokenizer.json: its post_processor adds more than {MAX_TEMPLATE_TOKENS} tokens"
        )
    if max(map(len, backend.get_vocab()), default=0) > MAX_PIECE_LEN:
        raise ConfigError(f"tokenizer.json: a token of more than {MAX_PIECE_LEN} characters")


def _num_steps(part: object) -> int:
    """How often this part of a tokenizer passes over a text."""
    if not isinstance(part, dict):
        return 0
    nested = [step for name in _LISTS if isinstance(part.get(name), list) for step in part[name]]
    return max(1, sum(map(_num_steps, nested)))


def _growth(step: object) -> float:
    """The most characters that one can become in this step of a normalizer or decoder."""
    match step:  # not by its type alone: the library takes steps without one
        case {"normalizers": list(steps)} | {"decoders": list(steps)}:
            return math.prod(map(_growth, steps))
        case {"pattern": {"String": str(old)}, "content": str(new)} if old:
            return max(1.0, len(new) / len(old))
        case {"pattern": _, "content": str(new)}:  # which may match nothing
            return 1.0 + len(new)
        case {"prepend": str(text)}:
            return 1.0 + len(text)
        case {"type": str(kind)}:
            return _GROWTH.get(kind, 1)
    return 1.0


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines() or ["malformed"]
    return lines[0][:200]
