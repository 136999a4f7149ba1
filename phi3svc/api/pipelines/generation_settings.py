"""Settings of the text-generation pipeline; what is none of them is for `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, Self

from phi3svc.api.generation import GenerationMixin
from phi3svc.api.generation_config import GenerationConfig
from phi3svc.api.pipelines.base import read_count, read_flag, refuse_unknown
from phi3svc.api.pipelines.tokenizer import PipelineTokenizer
from phi3svc.errors import InvalidRequest

# max_length is not here: it is also an argument of `generate`.
_OWN = (
    "return_full_text",
    "return_tensors",
    "return_text",
    "clean_up_tokenization_spaces",
    "prefix",
    "handle_long_generation",
    "stop_sequence",
    "truncation",
    "continue_final_message",
    "skip_special_tokens",
    "tokenizer_encode_kwargs",
    "tools",
    "documents",
    "add_special_tokens",
    "padding",
)
_OF_TOKENIZER = ("add_special_tokens", "truncation", "padding", "max_length")

# What `generate` takes that is no field of GenerationConfig.
_OF_GENERATE = frozenset(signature(GenerationMixin.generate).parameters)

Returns = Literal["full", "new", "tokens"]


@dataclass(frozen=True)
class GenerationSettings:
    """max_tokens: where prompts are cut, None for nowhere; makes_hole: they are cut in front to
    leave room; continues: None where the last message's role decides; generate: its arguments."""

    returns: Returns
    skip_special_tokens: bool
    add_special_tokens: bool
    prefix: str
    max_tokens: int | None
    makes_hole: bool
    continues: bool | None
    generate: Mapping[str, Any]

    @classmethod
    def read(cls, given: Mapping[str, Any], tokenizer: PipelineTokenizer) -> Self:
        """Raises InvalidRequest naming the setting that is none or out of range."""
        own, generate = split(given)
        # For its checks: a mistake should show when the pipeline is made, not when it is used.
        GenerationConfig(**{n: v for n, v in generate.items() if n not in _OF_GENERATE})
        for name in ("tools", "documents"):
            if own.get(name) is not None:
                raise InvalidRequest.of(name, "given, and chat templates get none here")
        hole = own.get("handle_long_generation")
        if hole not in (None, "hole"):
            raise InvalidRequest.of("handle_long_generation", f"{hole!r}, must be 'hole' or None")
        prefix = own.get("prefix") or ""
        if not isinstance(prefix, str):
            raise InvalidRequest.of("prefix", f"a {type(prefix).__name__}, must be a text")
        stop = own.get("stop_sequence")
        if stop is not None:
            generate["stop_strings"] = [stop] if isinstance(stop, str) else stop
        encode = {"max_length": given.get("max_length"), **own}
        special = own.get("tokenizer_encode_kwargs") or {}
        refuse_unknown(special, _OF_TOKENIZER)
        encode |= special
        max_length = read_count(encode, "max_length")
        if max_length is None:
            max_length = tokenizer.model_max_length
        continues = own.get("continue_final_message")
        return cls(
            returns=_returns(own),
            skip_special_tokens=read_flag(own, "skip_special_tokens", True),
            add_special_tokens=read_flag(encode, "add_special_tokens", True),
            prefix=prefix,
            max_tokens=max_length if read_flag(encode, "truncation") else None,
            makes_hole=hole is not None,
            continues=None if continues is None else read_flag(own, "continue_final_message"),
            generate=generate,
        )

    def goes_on(self, chat: Sequence[Mapping[str, str]]) -> bool:
        """Whether the conversation's last message is continued, rather than answered."""
        return chat[-1]["role"] == "assistant" if self.continues is None else self.continues


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's own settings, and the arguments of `generate`."""
    own = {name: value for name, value in given.items() if name in _OWN}
    return own, {name: value for name, value in given.items() if name not in _OWN}


def _returns(own: Mapping[str, Any]) -> Returns:
    named = [
        n for n in ("return_full_text", "return_tensors", "return_text") if own.get(n) is not None
    ]
    if len(named) > 1:
        raise InvalidRequest.of(named[0], f"given together with {named[1]}, must be one of them")
    if read_flag(own, "return_tensors"):
        return "tokens"
    return "full" if read_flag(own, "return_full_text", True) else "new"
