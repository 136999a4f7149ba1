"""A checkpoint's tokenizer. One file decides the tokens: `tokenizer.json`, or in its absence the
`.tiktoken` file that Phi-3-small has instead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import AddedToken

from phi3svc.config.checkpoint import tokenizer_file
from phi3svc.config.conversion import transformers_command
from phi3svc.config.files import read_file
from phi3svc.errors import ConfigError, InvalidRequest
from phi3svc.text.backend import component, fails_as, load_backend
from phi3svc.text.decoders import decoder_factory
from phi3svc.text.special_tokens import read_added_tokens, read_special_tokens
from phi3svc.text.tiktoken import MAX_TIKTOKEN_BYTES, tiktoken_to_json

MAX_TOKENIZER_BYTES = 32 << 20  # Phi-4-mini's, the largest of the family, has 16 MB

Span = tuple[int, int]


class Tokenizer:
    """Text to token ids and back. Safe to use from several threads at once."""

    def __init__(
        self,
        definition: str,
        special_tokens: dict[str, str] | None = None,
        find_added: Callable[[dict[int, AddedToken]], Sequence[AddedToken]] = lambda _: (),
    ) -> None:
        """definition: the text of a tokenizer.json. special_tokens: `eos_token` and the like.

        find_added: takes the definition's own added tokens, by id, and gives those to add, or to
        give other flags. Raises ConfigError when the definition is not one.
        """
        self._backend = load_backend(definition)
        self._backend.add_tokens(list(find_added(self._backend.get_added_tokens_decoder())))
        self._literal: tokenizers.Tokenizer | None = None
        self._literal_lock = threading.Lock()
        self.new_decoder = decoder_factory(component(self._backend, "decoder"))
        added = self._backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocab_size = self._backend.get_vocab_size(with_added_tokens=True)
        names = special_tokens or {}
        self.bos_token_id = self._find(names.get("bos_token"))
        self.eos_token_id = self._find(names.get("eos_token"))
        self.unk_token_id = self._find(names.get("unk_token"))
        self.pad_token_id = self._find(names.get("pad_token"))

    @classmethod
    def from_dir(cls, path: Path) -> Self:
        """Read a checkpoint's folder. ConfigError, in one line, for anything wrong with it."""
        file = tokenizer_file(path)
        if file.suffix == ".tiktoken":
            data = read_file(file, MAX_TIKTOKEN_BYTES)
            return cls(tiktoken_to_json(data, str(file)), read_special_tokens(path))
        if not file.exists():
            raise ConfigError(_no_tokenizer(file))
        try:
            definition = read_file(file, MAX_TOKENIZER_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"{file}: not UTF-8") from None
        try:
            return cls(definition, read_special_tokens(path), partial(read_added_tokens, path))
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
        return list(_run(backend, text, add_special).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """Token ids of `text`, and the characters [start, end) each of them came from.

        None stands for a token that the tokenizer added itself. Pieces with a leading blank start
        at that blank, as in transformers.
        """
        return _with_offsets(_run(self._backend, text))

    def encode_windows(
        self, text: str, max_tokens: int, overlap: int = 0
    ) -> list[tuple[list[int], list[Span | None]]]:
        """As `encode_with_offsets`, cut into windows of at most `max_tokens` tokens each.

        Each window has what the tokenizer adds to a text, and begins with the last `overlap` tokens
        of the one before it. InvalidRequest when there is no room for more than these.
        """
        encoding = _run(self._backend, text)
        if len(encoding.ids) <= max_tokens:
            return [_with_offsets(encoding)]
        room = max_tokens - self._backend.num_special_tokens_to_add(is_pair=False)
        if not 0 <= overlap < room:
            raise InvalidRequest.of(
                "stride", f"{overlap} in windows of {max_tokens} tokens, must be 0 to {room - 1}"
            )
        bare = _run(self._backend, text, add_special=False)
        bare.truncate(room, overlap)
        first = self._backend.post_process(bare)
        return [_with_offsets(window) for window in (first, *first.overflowing)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of `ids`. Ids without a token, as padded vocabularies have them, have no text."""
        # A batch of one lets go of the GIL.
        return self._backend.decode_batch([ids], skip_special_tokens=skip_special)[0]

    def token_text(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of a token, `▁the` or `<0x0A>`. None if there is none."""
        return self._backend.id_to_token(token_id)

    def join(self, pieces: Sequence[str]) -> str:
        """Text of the vocabulary's spellings, as `token_text` gives them."""
        decoder = self._backend.decoder
        assert decoder is not None  # else there is no `new_decoder`
        text: str = decoder.decode(list(pieces))
        return text

    def _find(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)

    def _literal_backend(self) -> tokenizers.Tokenizer:
        # A second instance, because the switch belongs to the instance and threads share it.
        with self._literal_lock:
            if self._literal is None:
                self._literal = load_backend(self._backend.to_str())
                self._literal.encode_special_tokens = True
        return self._literal


def _run(backend: tokenizers.Tokenizer, text: str, add_special: bool = True) -> tokenizers.Encoding:
    """InvalidRequest for a text that the checkpoint's tokenizer takes too long for."""
    with fails_as(lambda why: InvalidRequest.of("text", f"the model's tokenizer fails: {why}")):
        # A batch of one, because `encode` holds the GIL: a long text would stop the event loop.
        return backend.encode_batch([text], add_special_tokens=add_special)[0]


def _with_offsets(encoding: tokenizers.Encoding) -> tuple[list[int], list[Span | None]]:
    offsets = [
        None if added else (start, end)
        for (start, end), added in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
    ]
    return list(encoding.ids), offsets


def _no_tokenizer(file: Path) -> str:
    message = f"{file}: no such file; it decides the tokens"
    if any((file.parent / name).exists() for name in ("tokenizer.model", "vocab.json")):
        statement = "t.AutoTokenizer.from_pretrained(p).save_pretrained(p)"
        message += f"; make it with: {transformers_command(file.parent, statement)}"
    return message
