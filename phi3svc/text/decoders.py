"""The decoders of tokenizer.json, one token at a time.

The `tokenizers` library turns a finished list of tokens into text. These do the same as tokens
arrive, at a cost per token that does not grow, and give the same text: whatever is `settled` is a
prefix of what the library would give for the tokens so far and any that may follow.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from phi3svc.errors import ConfigError

REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Decoded(NamedTuple):
    """What one token adds.

    settled: text that no later token can change. hoped: text that follows the settled text unless
    a later token spoils it; it is settled, or replaced, by later tokens.
    """

    settled: str
    hoped: str


class Decoder(Protocol):
    """Turns the spellings of tokens into text."""

    def push(self, piece: str) -> Decoded:
        """Take the next token."""
        ...

    def finish(self) -> str:
        """Text of what is still open, now that no token follows."""
        ...


class ByteLevelDecoder:
    """GPT-2's way (Phi-4): every character of a token stands for a byte.

    Bytes become text when they make up a character; those that cannot any more become U+FFFD.
    """

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> Decoded:
        try:
            data = bytes([_BYTE_OF[char] for char in piece])
        except KeyError:  # an added token, spelt as it reads
            data = piece.encode("utf-8")
        return Decoded(self._utf8.decode(data), "")

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class ByteFallbackDecoder:
    """Llama's way (Phi-3): text with `▁` for a blank, and `<0xNN>` for bytes of rare characters.

    The library reads a run of byte tokens as a whole: UTF-8, or U+FFFD for each byte. So a valid
    run is only hoped for until another token ends it.

    replacements: (old, new) pairs, applied to each token. num_stripped: blanks taken off the start
    of the whole text. has_bytes: whether `<0xNN>` stands for a byte.
    """

    def __init__(
        self, replacements: list[tuple[str, str]], num_stripped: int, has_bytes: bool
    ) -> None:
        self._replacements = replacements
        self._num_to_strip = num_stripped
        self._has_bytes = has_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")
        # The open run of bytes: how many, its text while it is valid, and blanks still to strip.
        self._run_len = 0
        self._run_text: list[str] = []
        self._run_num_to_strip = 0
        self._run_failed = False

    def push(self, piece: str) -> Decoded:
        for old, new in self._replacements:
            piece = piece.replace(old, new)
        match = _BYTE_TOKEN.fullmatch(piece) if self._has_bytes else None
        if match is not None:
            return self._push_byte(bytes.fromhex(match[1]))
        text = self._end_run()
        piece, self._num_to_strip = _strip(piece, self._num_to_strip)
        return Decoded(text + piece, "")

    def finish(self) -> str:
        return self._end_run()

    def _push_byte(self, byte: bytes) -> Decoded:
        if self._run_len == 0:
            self._run_num_to_strip = self._num_to_strip
        self._run_len += 1
        if self._run_failed:
            return Decoded(REPLACEMENT, "")
        try:
            text = self._utf8.decode(byte)
        except UnicodeDecodeError:
            self._run_failed = True
            return Decoded(self._lose_run(), "")  # nothing that follows can mend it
        text, self._run_num_to_strip = _strip(text, self._run_num_to_strip)
        if text:
            self._run_text.append(text)
        return Decoded("", text)

    def _end_run(self) -> str:
        if self._run_len == 0:
            return ""
        text = ""  # that of a failed run went out when it failed
        if not self._run_failed:
            if self._utf8.getstate()[0]:  # ends inside a character
                text = self._lose_run()
            else:
                text, self._num_to_strip = "".join(self._run_text), self._run_num_to_strip
        self._run_len, self._run_text, self._run_failed = 0, [], False
        self._utf8.reset()
        return text

    def _lose_run(self) -> str:
        self._num_to_strip = 0
        return REPLACEMENT * self._run_len


def decoder_factory(spec: dict[str, object]) -> Callable[[], Decoder]:
    """What makes decoders as the `decoder` object of a tokenizer.json describes them.

    Known are ByteLevel, and Sequences of Replace, ByteFallback, Fuse and Strip in this order, any
    of them absent. ConfigError for anything else: its text could not be streamed exactly.
    """
    kind = spec.get("type")
    if kind == "ByteLevel":
        return ByteLevelDecoder
    sequence = spec.get("decoders") if kind == "Sequence" else [spec]
    steps = list(sequence) if isinstance(sequence, list) else []
    replacements = []
    while steps and steps[0].get("type") == "Replace":
        replacements.append(_read_replace(steps.pop(0)))
    has_bytes = _pop(steps, "ByteFallback") is not None
    is_fused = _pop(steps, "Fuse") is not None
    strip = _pop(steps, "Strip") if is_fused else None
    if steps:
        raise ConfigError(f"tokenizer.json: decoder {steps[0].get('type')} is not supported")
    num_stripped = 0 if strip is None else _read_strip(strip)
    return lambda: ByteFallbackDecoder(replacements, num_stripped, has_bytes)


def _pop(steps: list[dict[str, object]], kind: str) -> dict[str, object] | None:
    return steps.pop(0) if steps and steps[0].get("type") == kind else None


def _read_replace(step: dict[str, object]) -> tuple[str, str]:
    pattern, content = step.get("pattern"), step.get("content")
    old = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(old, str) or not old or not isinstance(content, str):
        raise ConfigError("tokenizer.json: decoder Replace must replace a String")
    return old, content


def _read_strip(step: dict[str, object]) -> int:
    start = step.get("start")
    if step.get("content") != " " or step.get("stop") != 0 or not isinstance(start, int):
        raise ConfigError("tokenizer.json: decoder Strip must take blanks off the start only")
    return start


def _strip(text: str, num_to_strip: int) -> tuple[str, int]:
    """Take up to so many blanks off the start; also how many the text that follows may lose."""
    if not text or not num_to_strip:
        return text, num_to_strip
    count = min(len(text) - len(text.lstrip(" ")), num_to_strip)
    return text[count:], num_to_strip - count if count == len(text) else 0


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable Latin-1 stands for itself, the other bytes for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


_BYTE_OF = _byte_alphabet()
BYTE_ALPHABET = {byte: char for char, byte in _BYTE_OF.items()}
"""The character that stands for each byte in a byte-level vocabulary."""
