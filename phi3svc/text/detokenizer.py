"""Streams the text of one sequence: whole characters only, cut at the first stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from phi3svc.text.stop_strings import StopMatcher, StopStrings
from phi3svc.text.tokenizer import Tokenizer


class DetokenizerOutput(NamedTuple):
    """What some tokens gave.

    text: new text to deliver. stop_string: the one that ended the text, or None; it is not part of
    the text. num_tokens: how many of the tokens count, all of them unless a stop string came.
    """

    text: str
    stop_string: str | None
    num_tokens: int


class Detokenizer:
    """Text of a growing list of tokens.

    The texts of all pushes and of `finish` together are `tokenizer.decode` of all tokens, up to
    the first stop string. A stop string is found with the first token after which the text so far
    has one; text that may be the beginning of one is held back. The cost of a token does not
    depend on how many came before.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_strings: Sequence[str] | StopStrings = ()
    ) -> None:
        """stop_strings: as `StopStrings` where several texts share them."""
        self._tokenizer = tokenizer
        self._decoder = tokenizer.new_decoder()
        if not isinstance(stop_strings, StopStrings):
            stop_strings = StopStrings(stop_strings)
        self._matcher = StopMatcher(stop_strings) if stop_strings else None
        self._is_stopped = False

    def push(self, ids: Iterable[int]) -> DetokenizerOutput:
        """Take the next tokens. Nothing may be pushed behind a stop string."""
        if self._is_stopped:
            raise ValueError("the text has ended at a stop string")
        texts: list[str] = []
        num_tokens = 0
        for token_id in ids:
            num_tokens += 1
            text, stop_string = self._push_token(token_id)
            texts.append(text)
            if stop_string is not None:
                self._is_stopped = True
                return DetokenizerOutput("".join(texts), stop_string, num_tokens)
        return DetokenizerOutput("".join(texts), None, num_tokens)

    def finish(self) -> str:
        """The text still held back, now that no token follows; nothing behind a stop string.

        Bytes that did not become a character are given as U+FFFD.
        """
        if self._is_stopped:
            return ""
        text = self._decoder.finish()
        if self._matcher is None:
            return text
        passed, stop_string = self._matcher.push(text)
        return passed if stop_string is not None else passed + self._matcher.finish()

    def _push_token(self, token_id: int) -> tuple[str, str | None]:
        if token_id in self._tokenizer.special_ids:
            return "", None
        piece = self._tokenizer.token_text(token_id)
        if piece is None:
            return "", None
        settled, hoped = self._decoder.push(piece)
        if self._matcher is None:
            return settled, None
        passed, stop_string = self._matcher.push(settled) if settled else ("", None)
        if stop_string is None and hoped:
            passed, stop_string = self._matcher.hope(hoped)
        return passed, stop_string
