"""Turns a tiktoken vocabulary, as Phi-3-small has it, into a tokenizer.json of the same ids.

The file has a line per token: its bytes in base64, a blank, and its rank, which is its id. It holds
neither the pattern that cuts text into words nor special tokens; those are cl100k_base's and
Phi-3-small's.
"""

from __future__ import annotations

import base64
import json
import reprlib
from collections.abc import Iterator

from phi3svc.config.phi3small_tokens import NUM_RANKS, SPECIAL_TOKENS
from phi3svc.errors import ConfigError
from phi3svc.text.decoders import BYTE_ALPHABET

# Source: openai_public.py of tiktoken, with \z for $, which ends a line in Oniguruma.
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s++\z|\s*[\r\n]|\s+(?!\S)|\s"
)

MAX_TIKTOKEN_BYTES = 16 << 20  # cl100k_base has 1.7 MB
MAX_TOKEN_BYTES = 256  # cl100k_base's longest are 128 blanks
MAX_RANKS = 1 << 20
MAX_SPELT_CHARS = 64 << 20

_DECIMAL_DIGITS = 7

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}

# What the original drops when it skips special tokens: this id and those above.
_FIRST_SKIPPED = SPECIAL_TOKENS["<|endoftext|>"]


def tiktoken_to_json(data: bytes, where: str) -> str:
    """The text of a tokenizer.json for the tiktoken file `data`.

    The special tokens follow the ranks in their order, at 100256 for cl100k_base itself and earlier
    for a smaller vocabulary. where: the file's name, for messages. ConfigError in one line for a
    file that is malformed, has a rank or a token twice, leaves one out, or cannot spell every byte.
    """
    tokens = _read_tokens(data, where)
    spelling = {token: _spell(token) for token in tokens}
    shift = len(tokens) - NUM_RANKS
    definition = {
        "added_tokens": [
            {
                "id": id + shift,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": id >= _FIRST_SKIPPED,
            }
            for content, id in sorted(SPECIAL_TOKENS.items(), key=lambda item: item[1])
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": CL100K_PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                _BYTE_LEVEL,
            ],
        },
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            # tiktoken looks a whole word up before it merges anything.
            "ignore_merges": True,
            "vocab": {spelling[token]: rank for rank, token in enumerate(tokens)},
            "merges": list(_merges(spelling, where)),
        },
    }
    return json.dumps(definition, ensure_ascii=False)


def _read_tokens(data: bytes, where: str) -> list[bytes]:
    """The tokens, each at the index that is its rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        encoded, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except ValueError:
            token = b""
        if not 1 <= len(token) <= MAX_TOKEN_BYTES:
            raise ConfigError(
                f"{where}: line {number}: expected 1 to {MAX_TOKEN_BYTES} bytes in base64, "
                f"found {reprlib.repr(encoded)}"
            )
        if not rank.isdigit() or len(rank) > _DECIMAL_DIGITS or int(rank) >= MAX_RANKS:
            raise ConfigError(
                f"{where}: line {number}: expected a rank below {MAX_RANKS}, "
                f"found {reprlib.repr(rank)}"
            )
        if token in ranks:
            raise ConfigError(f"{where}: line {number}: token {reprlib.repr(token)} is given twice")
        ranks[token] = int(rank)
    tokens = sorted(ranks, key=ranks.__getitem__)
    for expected, token in enumerate(tokens):
        if ranks[token] != expected:
            fault = "is given twice" if ranks[token] < expected else "comes where a lower is absent"
            raise ConfigError(f"{where}: rank {ranks[token]} {fault}")
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise ConfigError(f"{where}: byte 0x{byte:02x} has no token")
    return tokens


def _merges(spelling: dict[bytes, str], where: str) -> Iterator[list[str]]:
    """All pairs of tokens that make a token, lowest rank first: tiktoken merges whatever does."""
    num_chars = 0
    for token in spelling:
        for cut in range(1, len(token)):
            left, right = spelling.get(token[:cut]), spelling.get(token[cut:])
            if left is not None and right is not None:
                num_chars += len(token)
                if num_chars > MAX_SPELT_CHARS:
                    raise ConfigError(f"{where}: too many pairs of its tokens make a token")
                yield [left, right]


def _spell(token: bytes) -> str:
    return token.decode("latin-1").translate(BYTE_ALPHABET)
