"""Tokens that a checkpoint's files name besides the vocabulary: special ones, and added ones.

The rules are those of transformers 5 (`PreTrainedTokenizerBase._from_pretrained` and
`TokenizersBackend`). If tokenizer_config.json has `added_tokens_decoder`, as transformers 4 wrote
it, it is the newest of all; else special_tokens_map.json and added_tokens.json, from before that,
still count.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import AddedToken

from phi3svc.config.checkpoint import tokenizer_file
from phi3svc.config.json_file import Fields, read_json_object
from phi3svc.errors import ConfigError

NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
MAX_TOKEN_LEN = 256
MAX_ADDED_TOKENS = 1 << 16

_MAX_ID_DIGITS = 7


def read_tokenizer_config(path: Path) -> dict[str, object]:
    """tokenizer_config.json of the checkpoint in `path`, or nothing if it has none."""
    return _read(path / "tokenizer_config.json")


def read_special_tokens(path: Path) -> dict[str, str]:
    """Special tokens by name, `eos_token` for instance.

    Beside a tiktoken file, which names none, `<|endoftext|>` begins and ends. ConfigError when a
    token is neither a string nor an object with its `content`.
    """
    tokens: dict[str, str] = {}
    if tokenizer_file(path).suffix == ".tiktoken":
        tokens = dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>")
    for file, values in _settings(path):
        for name in NAMES:
            if values.get(name) is not None:
                tokens[name] = _content(values[name], f"{file}: {name}")
    return tokens


def read_added_tokens(path: Path, own: Mapping[int, AddedToken]) -> list[AddedToken]:
    """Tokens that the files beside tokenizer.json add to it, or give other flags than it does.

    own: those of tokenizer.json, by id. ConfigError in one line for a malformed one.
    """
    named = read_special_tokens(path).values()
    special = dict.fromkeys([*named, *_unnamed_tokens(path)])
    config = read_tokenizer_config(path)
    if "added_tokens_decoder" in config:
        where = f"{path / 'tokenizer_config.json'}: added_tokens_decoder"
        tokens = _tokens_by_id(config["added_tokens_decoder"], where)
    else:
        tokens = _legacy_tokens(path / "added_tokens.json", special) | dict(own)
    if len(tokens) > MAX_ADDED_TOKENS:
        raise ConfigError(f"{path}: more than {MAX_ADDED_TOKENS} added tokens")
    listed = [token for _, token in sorted(tokens.items())]
    for token in listed:
        token.special |= token.content in named
    known = {token.content for token in (*own.values(), *listed)}
    return [*listed, *(AddedToken(name, special=True) for name in special if name not in known)]


def _settings(path: Path) -> list[tuple[Path, dict[str, object]]]:
    """The files that name tokens, the one that goes before the other last."""
    config = read_tokenizer_config(path)
    map_file = path / "special_tokens_map.json"
    files = [(map_file, _read(map_file)), (path / "tokenizer_config.json", config)]
    return files if "added_tokens_decoder" in config else files[::-1]


def _unnamed_tokens(path: Path) -> list[str]:
    """Special tokens that the files list without a name."""
    return [
        _content(item, f"{file}: {name}")
        for file, values in _settings(path)
        for name in ("additional_special_tokens", "extra_special_tokens")
        if isinstance(listed := values.get(name), list)
        for item in listed
    ]


def _tokens_by_id(values: object, where: str) -> dict[int, AddedToken]:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object")
    tokens = {}
    for key, value in values.items():
        if not key.isdecimal() or len(key) > _MAX_ID_DIGITS or not isinstance(value, dict):
            raise ConfigError(f"{where}: expected tokens by id, found {reprlib.repr(key)}")
        fields = Fields(value, f"{where}[{key}]")
        is_special = fields.flag("special", False)
        tokens[int(key)] = AddedToken(
            _content(value, f"{where}[{key}]"),
            special=is_special,
            normalized=fields.flag("normalized", not is_special),
            **{name: fields.flag(name, False) for name in ("single_word", "lstrip", "rstrip")},
        )
    return tokens


def _legacy_tokens(file: Path, special: Iterable[str]) -> dict[int, AddedToken]:
    """Of added_tokens.json: ids by spelling, without flags."""
    values = _read(file)
    ids = {content: Fields(values, str(file)).integer(content, 0, 1 << 22) for content in values}
    special = set(special)
    return {
        id: AddedToken(
            _content(content, str(file)),
            special=content in special,
            normalized=content not in special,
        )
        for content, id in ids.items()
    }


def _content(value: object, where: str) -> str:
    if isinstance(value, dict):  # a token with its flags, as transformers 4 saves it
        value = value.get("content")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TOKEN_LEN:
        raise ConfigError(f"{where} must be a text of 1 to {MAX_TOKEN_LEN} characters")
    return value


def _read(file: Path) -> dict[str, object]:
    return read_json_object(file) if file.exists() else {}
