"""Guesses the next tokens of one sequence from where its last few stood before.

Prompt lookup decoding (A. Saxena, 2023): answers that quote their prompt, or repeat themselves, go
on as the text went on the last time. A guess costs a search through the sequence; whether it is
worth computing is for `speculation.py` to say.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Ids

NGRAM_LENGTHS = (3, 2)
"""How many of the last tokens must have stood before; the longer match is looked for first."""

_TOKEN_BYTES = array("i").itemsize
_INITIAL_RATE = 0.75
_RATE_STEP = 0.3
_INITIAL_LENGTH, _MIN_LENGTH = 8, 4
_MIN_PAUSE, _MAX_PAUSE = 16, 256
_MAX_SKIP = 4
_MAX_MISALIGNED = 32


class Drafter:
    """One sequence's guesses, and how good they have been.

    rate: estimated share of the guessed tokens that will be right. length: tokens to guess next
    time. num_drafted, num_accepted: tokens guessed, and those of them that were right.
    """

    def __init__(self) -> None:
        self.rate = _INITIAL_RATE
        self.length = _INITIAL_LENGTH
        self.num_drafted = 0
        self.num_accepted = 0
        # The sequence's tokens as bytes: searched at memory speed, four bytes a token.
        self._text = bytearray()
        self._pause = 0
        self._num_misses = 0
        self._next_try = 0

    def is_resting(self, num_tokens: int) -> bool:
        """Whether a sequence of so many tokens is too young to be guessed at again."""
        return num_tokens < self._next_try

    def rest(self, num_tokens: int) -> None:
        """Guess no more for a while, longer each time until a guess is right."""
        self._pause = min(max(2 * self._pause, _MIN_PAUSE), _MAX_PAUSE)
        self._next_try = num_tokens + self._pause

    def guess(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """At most `max_tokens` that may follow `token_ids`; none if its end is new.

        token_ids: as in the call before, and what came since.
        """
        num_known = len(self._text) // _TOKEN_BYTES
        self._text += array("i", token_ids[num_known:]).tobytes()
        for ngram_len in NGRAM_LENGTHS:
            follower = self._find_follower(ngram_len)
            if follower is not None:
                self._num_misses = 0
                return _go_on(token_ids, follower, min(max_tokens, self.length))
        # Text that is all new should not pay for searches at every token.
        self._num_misses = min(self._num_misses + 1, _MAX_SKIP)
        self._next_try = max(self._next_try, len(token_ids) + self._num_misses)
        return []

    def learn(self, num_drafted: int, num_accepted: int, max_length: int) -> None:
        """Take in how many of the guessed tokens, at least one, were right."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        self.rate += _RATE_STEP * (num_accepted / num_drafted - self.rate)
        if num_accepted == num_drafted:
            self._pause = 0
            self.length = min(2 * self.length, max_length)
        else:
            self.length = max(num_accepted + 1, _MIN_LENGTH)

    def _find_follower(self, ngram_len: int) -> int | None:
        """Index of the token behind the last earlier place of the last `ngram_len` tokens."""
        size = ngram_len * _TOKEN_BYTES
        if len(self._text) <= size:
            return None
        ngram = self._text[-size:]
        end = len(self._text) - _TOKEN_BYTES
        for _ in range(_MAX_MISALIGNED):
            at = self._text.rfind(ngram, 0, end)
            if at < 0:
                return None
            if at % _TOKEN_BYTES == 0:
                return at // _TOKEN_BYTES + ngram_len
            end = at + size - 1  # these bytes match across tokens
        return None


def _go_on(token_ids: Ids[int], follower: int, num_tokens: int) -> list[int]:
    """`num_tokens` from `follower` on; what lies beyond the end is taken from the copy itself."""
    copy = list(token_ids[follower : follower + num_tokens])
    period = len(token_ids) - follower
    while len(copy) < num_tokens:
        copy.append(copy[len(copy) - period])
    return copy
