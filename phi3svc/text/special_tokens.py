"""Names of a checkpoint's special tokens: what `bos_token`, `eos_token` and the like stand for."""

from __future__ import annotations

from pathlib import Path

from phi3svc.config.json_file import read_json_object
from phi3svc.errors import ConfigError

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
MAX_TOKEN_LEN = 256


def read_tokenizer_config(path: Path) -> dict[str, object]:
    """tokenizer_config.json of the checkpoint in `path`, or nothing if it has none."""
    file = path / "tokenizer_config.json"
    return read_json_object(file) if file.exists() else {}


def read_special_tokens(path: Path) -> dict[str, str]:
    """Special tokens by name, from tokenizer_config.json, else special_tokens_map.json.

    ConfigError when a token is neither a string nor an object with its `content`.
    """
    tokens: dict[str, str] = {}
    for file_name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = path / file_name
        values = read_json_object(file) if file.exists() else {}
        for name in NAMES:
            value = values.get(name)
            if isinstance(value, dict):  # a token with its flags, as transformers 4 saves it
                value = value.get("content")
            if value is None:
                continue
            if not isinstance(value, str) or not 0 < len(value) <= MAX_TOKEN_LEN:
                raise ConfigError(
                    f"{file}: {name} must be a text of 1 to {MAX_TOKEN_LEN} characters"
                )
            tokens[name] = value
    return tokens
