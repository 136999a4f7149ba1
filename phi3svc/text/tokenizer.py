"""A checkpoint's tokenizer. `tokenizer.json` is the authority; no other file decides a token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import tokenizers

from phi3svc.config.json_file import parse_json_object
from phi3svc.errors import ConfigError
from phi3svc.text.decoders import decoder_factory
from phi3svc.text.special_tokens import read_special_tokens

MAX_TOKENIZER_BYTES = 64 << 20  # Phi-4-mini's, the largest of the family, has 16 MB

Span = tuple[int, int]


class Tokenizer:
    """Text to token ids and back. Safe to use from several threads at once."""

    def __init__(self, definition: str, special_tokens: dict[str, str] | None = None) -> None:
        """definition: the text of a tokenizer.json. special_tokens: `eos_token` and the like.

        Raises ConfigError when the definition is not one.
        """
        self._backend = _load(definition)
        self._literal: tokenizers.Tokenizer | None = None
        self._literal_lock = threading.Lock()
        self.new_decoder = decoder_factory(_decoder_spec(self._backend))
        added = self._backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocab_size = self._backend.get_vocab_size(with_added_tokens=True)
        names = special_tokens or {}
        self.bos_token_id = self._find(names.get("bos_token"))
        self.eos_token_id = self._find(names.get("eos_token"))
        self.unk_token_id = self._find(names.get("unk_token"))

    @classmethod
    def from_dir(cls, path: Path) -> Self:
        """Read a checkpoint's folder. ConfigError, in one line, for anything wrong with it."""
        file = path / "tokenizer.json"
        try:
            with file.open("rb") as stream:
                data = stream.read(MAX_TOKENIZER_BYTES + 1)
            definition = data.decode("utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such file; it decides the tokens") from None
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{file}: not UTF-8") from None
        if len(data) > MAX_TOKENIZER_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_TOKENIZER_BYTES} bytes")
        try:
            return cls(definition, read_special_tokens(path))
        except ConfigError as error:
            message = str(error)
            raise ConfigError(
                message if message.startswith(str(path)) else f"{file.parent}/{message}"
            ) from None

    def encode(self, text: str, parse_special: bool = True, add_special: bool = False) -> list[int]:
        """Token ids of `text`.

        parse_special: special tokens written in the text become their ids; else they are spelt
        out. add_special: add what the tokenizer itself puts around a text, as transformers does
        for plain text and not for a rendered conversation; Phi tokenizers put nothing.
        """
        backend = self._backend if parse_special else self._literal_backend()
        return list(backend.encode(text, add_special_tokens=add_special).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """Token ids of `text`, and the characters [start, end) each of them came from.

        None stands for a token that the tokenizer added itself. Pieces with a leading blank start
        at that blank, as in transformers.
        """
        encoding = self._backend.encode(text)
        offsets = [
            None if added else (start, end)
            for (start, end), added in zip(
                encoding.offsets, encoding.special_tokens_mask, strict=True
            )
        ]
        return list(encoding.ids), offsets

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of `ids`. Ids without a token, as padded vocabularies have them, have no text."""
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def token_text(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of a token, `▁the` or `<0x0A>`. None if there is none."""
        return self._backend.id_to_token(token_id)

    def _find(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)

    def _literal_backend(self) -> tokenizers.Tokenizer:
        # A second instance, because the switch belongs to the instance and threads share it.
        with self._literal_lock:
            if self._literal is None:
                self._literal = _load(self._backend.to_str())
                self._literal.encode_special_tokens = True
        return self._literal


def _decoder_spec(backend: tokenizers.Tokenizer) -> dict[str, object]:
    decoder = backend.decoder
    return {} if decoder is None else parse_json_object(decoder.__getstate__(), "decoder")


def _load(definition: str) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises bare Exception for every malformed file
        lines = str(error).splitlines() or ["malformed"]
        raise ConfigError(f"tokenizer.json: {lines[0][:200]}") from None
    # Saved training settings would cut or pad requests.
    backend.no_truncation()
    backend.no_padding()
    return backend
