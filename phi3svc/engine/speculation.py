"""When guessing tokens pays: guesses are computed as if they were known, and kept where right.

A row of the step has a price: what it adds to the step's time, as a share of the time that a token
costs without guesses. One sequence alone leaves most of the machine waiting for weights, and rows
are cheap; a full batch is bound by arithmetic, and a row costs as much as a token. Guesses are made
where they are right more often than they cost, and where the whole step then brings more tokens a
second. All of it is measured: the times of steps with guesses and without, and the rate of right
guesses per sequence (`drafter.py`). A sequence whose guesses don't pay is left in peace, and tried
again now and then.

None of this can change a token: a guess counts only if it is the token that is drawn in its place
(Leviathan et al. 2023, with both draws from the same random number), so speed is all that differs.
"""

from __future__ import annotations

from collections.abc import Callable

from phi3svc.engine.drafter import Drafter
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.sequence import Sequence

_MARGIN = 1.1
"""By how much a guess must be better than its price: guessing itself takes time."""

_MIN_OBSERVED = 8
"""Steps with guesses before their times are believed: the first of a shape take longer."""

_TRY_EVERY = 8
"""Of the steps whose guesses don't seem to pay, one in so many has them: machines change."""

_MAX_IN_A_ROW = 48
"""Steps with guesses before one without, which keeps it known what those cost."""


class StepCost:
    """Seconds of a step as a line over its rows, fitted to recent steps (least squares)."""

    _DECAY = 0.97
    _PRIOR_SLOPE = 1 / 8
    _MIN_SLOPE, _MAX_SLOPE = 1 / 64, 4.0
    _MIN_VARIANCE = 0.25
    _MAX_SURPRISE = 3.0

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._rows2 = self._product = 0.0

    def observe(self, num_rows: int, seconds: float) -> None:
        if self._weight > 1:
            # One hiccup of the machine should not outweigh everything before.
            seconds = min(seconds, self._MAX_SURPRISE * self._seconds / self._weight)
        decay = self._DECAY
        self._weight = decay * self._weight + 1
        self._rows = decay * self._rows + num_rows
        self._seconds = decay * self._seconds + seconds
        self._rows2 = decay * self._rows2 + num_rows * num_rows
        self._product = decay * self._product + num_rows * seconds

    @property
    def num_recent(self) -> float:
        """Steps observed, old ones counting less."""
        return self._weight

    def seconds(self, num_rows: int) -> float | None:
        """Of a step with so many rows; None before the first was observed."""
        if self._weight == 0:
            return None
        slope, mean_rows = self._slope(), self._rows / self._weight
        return self._seconds / self._weight * (1 + slope * num_rows) / (1 + slope * mean_rows)

    def _slope(self) -> float:
        """A row's time as a share of that of a step without rows."""
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        variance = self._rows2 / self._weight - mean_rows * mean_rows
        if variance < self._MIN_VARIANCE:  # steps of one size do not tell
            return self._PRIOR_SLOPE
        per_row = (self._product / self._weight - mean_rows * mean_seconds) / variance
        fixed = mean_seconds - per_row * mean_rows
        if fixed <= 0:
            return self._MAX_SLOPE
        return min(max(per_row / fixed, self._MIN_SLOPE), self._MAX_SLOPE)


class Speculation:
    """Decides who guesses how much, by what it cost and brought before.

    max_draft_tokens: per sequence and step; 0 for no guessing. context_len, rope_set: as in
    `scheduler.Scheduler`.
    """

    def __init__(
        self, max_draft_tokens: int, context_len: int, rope_set: Callable[[int], int]
    ) -> None:
        self._max_draft_tokens = max_draft_tokens
        self._context_len = context_len
        self._rope_set = rope_set
        # Steps with guesses have costs of their own: besides their rows, they can't be queued.
        self._plain = StepCost()
        self._guessing = StepCost()
        self._num_in_a_row = 0
        self._num_declined = 0

    def drafter_for(self, sequence: Sequence) -> Drafter | None:
        """Penalties push away from what has been said before: then guessing it is no use."""
        request = sequence.request
        if not isinstance(request, GenerateRequest) or request.sampling.has_penalty:
            return None
        return Drafter() if self._max_draft_tokens else None

    def price(self, num_decodes: int) -> float:
        """What one guess adds to a step, in shares of what a token costs without guesses."""
        plain_s = self._plain.seconds(num_decodes)
        alone_s, one_more_s = map(self._guessing.seconds, (num_decodes, num_decodes + 1))
        if plain_s is None or alone_s is None or one_more_s is None:
            return 0.0  # to be found out
        return _MARGIN * (one_more_s - alone_s) * num_decodes / plain_s

    def pays(self, sequences: list[Sequence], drafts: list[list[int]]) -> bool:
        """Whether a step with these guesses, one list per sequence, brings more tokens a second.

        If not, those who have guessed leave it for a while.
        """
        num_rows = len(sequences) + sum(map(len, drafts))
        plain_s, guessing_s = self._plain.seconds(len(sequences)), self._guessing.seconds(num_rows)
        if plain_s is None or self._num_in_a_row >= _MAX_IN_A_ROW:
            return False  # what plain steps cost must be known, and stay so
        if guessing_s is None or self._guessing.num_recent < _MIN_OBSERVED:
            return True
        num_tokens = float(len(sequences))
        for sequence, draft in zip(sequences, drafts, strict=True):
            num_tokens += sequence.drafter.rate * len(draft) if sequence.drafter else 0
        if num_tokens / guessing_s > len(sequences) / plain_s:
            return True
        self._num_declined += 1
        if self._num_declined % _TRY_EVERY == 0:
            return True
        for sequence, draft in zip(sequences, drafts, strict=True):
            if draft and sequence.drafter is not None:
                sequence.drafter.rest(sequence.num_tokens)
        return False

    def may_draft(self, sequence: Sequence) -> bool:
        """Whether it is time to guess for this sequence."""
        drafter = sequence.drafter
        return drafter is not None and not drafter.is_resting(sequence.num_tokens)

    def peek(self, sequence: Sequence, price: float) -> list[int]:
        """What a sequence would guess now: one that guesses now may do so at its next token."""
        drafter = sequence.drafter
        if drafter is None or drafter.rate <= price or drafter.is_resting(sequence.num_tokens):
            return []
        return drafter.guess(sequence.token_ids, self._max_draft_tokens)

    def draft(self, sequence: Sequence, max_tokens: int, price: float) -> list[int]:
        """Tokens that may follow, at most `max_tokens`. Only when it `may_draft`."""
        drafter = sequence.drafter
        assert drafter is not None
        if drafter.rate <= price:
            # Once in a while it is tried all the same: texts change, and so do prices.
            drafter.rest(sequence.num_tokens)
        num_tokens = min(max_tokens, self._max_len(sequence))
        return drafter.guess(sequence.token_ids, num_tokens) if num_tokens > 0 else []

    def learn(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """Take in how many of a sequence's guesses were right."""
        if num_drafted and sequence.drafter is not None:
            sequence.drafter.learn(num_drafted, num_accepted, self._max_draft_tokens)

    def observe(self, num_decodes: int, num_rows: int, seconds: float) -> None:
        """Take in the time of a step in which nobody computed a prompt."""
        if num_rows > num_decodes:
            self._guessing.observe(num_rows, seconds)
            self._num_in_a_row += 1
        else:
            self._plain.observe(num_rows, seconds)
            self._num_in_a_row = 0

    def _max_len(self, sequence: Sequence) -> int:
        """Guesses of which each could become a token, all under the present factor set."""
        request = sequence.request
        assert isinstance(request, GenerateRequest)
        num_left = min(
            request.max_new_tokens - sequence.num_generated,
            self._context_len - sequence.num_tokens,
        )
        # Behind the guesses comes one token more, for which nothing has to be guessed.
        max_len = min(num_left - 1, self._max_draft_tokens)
        while max_len > 0 and self._rope_set(sequence.num_tokens + max_len) != sequence.rope_set:
            max_len -= 1
        return max_len
