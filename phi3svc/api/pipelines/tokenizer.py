"""What a pipeline needs besides the model: tokens, the chat template, the limits of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from phi3svc.config.checkpoint import resolve_source
from phi3svc.errors import ConfigError, InvalidRequest
from phi3svc.text.chat import ChatTemplate
from phi3svc.text.special_tokens import NAMES, read_tokenizer_config
from phi3svc.text.tokenizer import Span, Tokenizer

# Files say 1e30 for "no limit".
_MAX_LENGTH = 1 << 32
_MARK = "CONTINUE HERE"

Message = Mapping[str, str]


class PipelineTokenizer:
    """A tokenizer with its chat template.

    model_max_length: the longest text in tokens, by tokenizer_config.json; None for no limit.
    pad_token_id: the checkpoint's; may be assigned, and fills up answers. Special tokens that a
    text spells out are taken for these, as in transformers.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None = None,
        model_max_length: object = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self.pad_token_id = tokenizer.pad_token_id
        self.model_max_length = (
            int(model_max_length)
            if isinstance(model_max_length, (int, float)) and 1 <= model_max_length < _MAX_LENGTH
            else None
        )

    @classmethod
    def of(cls, tokenizer: Any, folder: str) -> Self:
        """tokenizer: where to read one, as `resolve_source` takes it; this package's; or a fast
        tokenizer of transformers; None for that of the checkpoint in `folder`, if there is one.

        ConfigError, InvalidRequest.
        """
        if tokenizer is None and not folder:
            raise ConfigError("tokenizer: none given, and the model comes from no folder with one")
        if tokenizer is None:
            return cls.from_dir(Path(folder))
        if isinstance(tokenizer, (str, Path)):
            return cls.from_dir(resolve_source(str(tokenizer)).path)
        if isinstance(tokenizer, cls):
            return tokenizer
        if isinstance(tokenizer, Tokenizer):
            return cls(tokenizer, ChatTemplate.from_dir(Path(folder)) if folder else None)
        return cls._from_transformers(tokenizer)

    @classmethod
    def from_dir(cls, path: Path) -> Self:
        """Read a checkpoint's folder. ConfigError, in one line, for anything wrong with it."""
        limit = read_tokenizer_config(path).get("model_max_length")
        return cls(Tokenizer.from_dir(path), ChatTemplate.from_dir(path), limit)

    @classmethod
    def _from_transformers(cls, tokenizer: Any) -> Self:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not hasattr(backend, "to_str"):
            raise InvalidRequest.of(
                "tokenizer",
                f"a {type(tokenizer).__name__}, must be a checkpoint's folder or hub id, "
                "a phi3svc Tokenizer, or a fast tokenizer of transformers",
            )
        values = {name: getattr(tokenizer, name, None) for name in NAMES}
        special = {name: str(token) for name, token in values.items() if token is not None}
        source = getattr(tokenizer, "chat_template", None)
        if isinstance(source, Mapping):  # several, by name
            source = source.get("default")
        template = None if source is None else ChatTemplate(source, special)
        limit = getattr(tokenizer, "model_max_length", None)
        return cls(Tokenizer(backend.to_str(), special), template, limit)

    @property
    def bos_token_id(self) -> int | None:
        return self._tokenizer.bos_token_id

    @property
    def eos_token_id(self) -> int | None:
        return self._tokenizer.eos_token_id

    @property
    def unk_token_id(self) -> int | None:
        return self._tokenizer.unk_token_id

    @property
    def eos_token(self) -> str | None:
        return self._spelling_or_none(self.eos_token_id)

    @property
    def pad_token(self) -> str | None:
        return self._spelling_or_none(self.pad_token_id)

    @pad_token.setter
    def pad_token(self, token: str) -> None:
        if token not in self._ids:
            raise InvalidRequest.of("pad_token", f"{token!r}, must be a token of the vocabulary")
        self.pad_token_id = self._ids[token]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or a list of those of several; unk_token_id for none."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        return self._ids.get(tokens, self.unk_token_id)

    def encode(
        self, text: str, add_special_tokens: bool = True, max_length: int | None = None
    ) -> list[int]:
        """Token ids of `text`, cut behind the first `max_length` where that is given.

        add_special_tokens: with what the tokenizer puts around a text; Phi tokenizers put nothing.
        """
        if max_length is not None and add_special_tokens:
            return self._tokenizer.encode_windows(text, max_length)[0][0]
        return self._tokenizer.encode(text, add_special=add_special_tokens)[:max_length]

    def encode_windows(
        self, text: str, max_tokens: int | None, overlap: int
    ) -> list[tuple[list[int], list[Span | None]]]:
        """See `Tokenizer.encode_windows`; one window without `max_tokens`."""
        if max_tokens is None:
            return [self._tokenizer.encode_with_offsets(text)]
        return self._tokenizer.encode_windows(text, max_tokens, overlap)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Text of `token_ids`."""
        return self._tokenizer.decode(token_ids, skip_special=skip_special_tokens)

    def spelling(self, token_id: int) -> str:
        """The vocabulary's own spelling of a token, `▁the` or `<0x0A>`."""
        return self._tokenizer.token_text(token_id) or ""

    def join(self, spellings: Sequence[str]) -> str:
        """Text of the vocabulary's spellings of tokens."""
        return self._tokenizer.join(spellings)

    def apply_chat_template(
        self,
        conversation: Sequence[Message],
        *,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
    ) -> str:
        """The prompt of a conversation, as a text; tokenize must be False.

        add_generation_prompt: end with the header of the assistant's turn. continue_final_message:
        end with the last message's content, for the model to go on with. InvalidRequest as from
        `ChatTemplate.render`.
        """
        if tokenize:
            raise InvalidRequest.of("tokenize", "True, must be False: `encode` makes ids of a text")
        if self._template is None:
            raise InvalidRequest.of("tokenizer", "has no chat template, which a conversation needs")
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest.of(
                "continue_final_message", "True together with add_generation_prompt, must be False"
            )
        if continue_final_message:
            return _render_open(self._template, conversation)
        return self._template.render(conversation, add_generation_prompt)

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Of every token, by its spelling."""
        ids = range(self._tokenizer.vocab_size)
        return {text: i for i in ids if (text := self._tokenizer.token_text(i)) is not None}

    def _spelling_or_none(self, token_id: int | None) -> str | None:
        return None if token_id is None else self._tokenizer.token_text(token_id)


def _render_open(template: ChatTemplate, messages: Sequence[Message]) -> str:
    """The conversation up to its last message's content.

    The content's end is found by a mark behind it, since a template may trim and repeat it.
    """
    if not messages:
        template.render(messages)  # its own sentence
    *before, last = messages
    marked = template.render([*before, {**last, "content": f"{last['content']}{_MARK} "}], False)
    head, mark, rest = marked.rpartition(_MARK)
    if not mark or last["content"].strip() not in head:
        raise InvalidRequest.of(
            "continue_final_message", "the chat template does not print the last message as it is"
        )
    # A blank behind the mark that is gone tells of a template that trims.
    return head if rest.startswith(" ") else head.rstrip()
