"""One request on its way through the engine: its tokens, and how far the model has read them."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field
from enum import Enum, auto

from phi3svc.engine.drafter import Drafter
from phi3svc.engine.events import FinishReason, Timings
from phi3svc.engine.request import GenerateRequest, Request
from phi3svc.engine.token_counts import TokenCounts


class SequenceStatus(Enum):
    """HELD: a fork that waits until its leader has computed the prompt. PAUSED: see `paused.py`."""

    HELD = auto()
    WAITING = auto()
    RUNNING = auto()
    PAUSED = auto()
    ENDED = auto()


class OutputKind(Enum):
    """What a sequence wants of the rows the model computes for it."""

    NEXT_TOKEN = auto()
    POOLED_SCORES = auto()
    ALL_SCORES = auto()


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """State of one request, or of one of its n answers. `scheduler.py` alone writes it.

    index: which of the answers. forks: the sequences of the other answers; they have the prompt in
    common with this one, their leader, and start when it has computed that. pooled_idx: the token
    whose scores stand for a whole text, for POOLED_SCORES alone. token_ids: prompt, then generated
    tokens. num_computed: how many of them have keys and values in the blocks of `block_table`.
    rope_set: the RoPE factor set they were computed with. prefix_chain: key and tokens of its
    first full blocks under those factors, as far as anyone asked. num_kept_blocks: how many of its
    blocks the prefix cache knows about. num_cached_prompt_tokens: how many of the prompt were found
    computed when it was first scheduled. token_counts: None when no penalty wants them.
    num_prompt_logprobs: prompt tokens, counted from the second, whose log probability is known
    already. drafter: guesses its next tokens; None where guesses are not wanted.
    """

    request: Request
    pooled_idx: int = -1
    index: int = 0
    forks: list[Sequence] = field(default_factory=list)
    token_ids: list[int] = field(init=False)
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed: int = 0
    block_table: array[int] = field(default_factory=lambda: array("i"))
    rope_set: int = 0
    prefix_chain: list[tuple[bytes, bytes]] = field(default_factory=list)
    num_kept_blocks: int = 0
    num_cached_prompt_tokens: int = 0
    scores: list[list[float]] = field(default_factory=list)
    num_prompt_logprobs: int = 0
    finish_reason: FinishReason | None = None
    num_preemptions: int = 0
    arrival_s: float = field(default_factory=time.monotonic)
    scheduled_s: float | None = None
    first_output_s: float | None = None
    token_counts: TokenCounts | None = field(init=False, default=None)
    drafter: Drafter | None = None

    def __post_init__(self) -> None:
        self.token_ids = []
        if self.status is not SequenceStatus.HELD:
            self.take_prompt()

    def take_prompt(self) -> None:
        """Begin with the prompt's tokens; a fork does so when it starts, as many may wait."""
        if self.token_ids:
            return
        self.token_ids = list(self.request.prompt_ids)
        if isinstance(self.request, GenerateRequest) and self.request.sampling.has_penalty:
            # Only the repetition penalty looks at the prompt.
            has_repetition = self.request.sampling.repetition_penalty != 1
            self.token_counts = TokenCounts(self.request.prompt_ids if has_repetition else ())

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def append(self, token_id: int) -> None:
        """Take in a generated token."""
        self.token_ids.append(token_id)
        if self.token_counts is not None:
            self.token_counts.add(token_id)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - len(self.request.prompt_ids)

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def output_kind(self) -> OutputKind:
        if isinstance(self.request, GenerateRequest):
            return OutputKind.NEXT_TOKEN
        return OutputKind.ALL_SCORES if self.request.per_token else OutputKind.POOLED_SCORES

    @property
    def wants_prompt_logprobs(self) -> bool:
        # One of the answers is enough: they have the prompt in common.
        request = self.request
        return (
            isinstance(request, GenerateRequest)
            and request.want_prompt_logprobs
            and self.index == 0
        )

    def prompt_rows(self, start: int, end: int) -> range:
        """Of the tokens `start .. end`, those whose row gives a wanted prompt token's logprob."""
        if not self.wants_prompt_logprobs:
            return range(0)
        last = len(self.request.prompt_ids) - 1
        return range(max(start, self.num_prompt_logprobs), min(end, last))

    def wanted_rows(self, start: int, end: int) -> range:
        """Of the tokens `start .. end`, those whose rows have a token or scores that are wanted."""
        match self.output_kind:
            case OutputKind.NEXT_TOKEN:
                return range(end - 1, end) if end == self.num_tokens else range(0)
            case OutputKind.POOLED_SCORES:
                is_inside = start <= self.pooled_idx < end
                return range(self.pooled_idx, self.pooled_idx + 1) if is_inside else range(0)
            case OutputKind.ALL_SCORES:
                return range(start, end)

    @property
    def first_needed_row(self) -> int:
        """The first token that has to be computed even if all before it were known."""
        match self.output_kind:
            case OutputKind.NEXT_TOKEN:
                missing = self.prompt_rows(0, self.num_tokens)
                return missing.start if missing else self.num_tokens - 1
            case OutputKind.POOLED_SCORES:
                return self.pooled_idx
            case OutputKind.ALL_SCORES:
                return len(self.scores)

    @property
    def has_ended(self) -> bool:
        return self.status is SequenceStatus.ENDED

    def timings(self) -> Timings:
        """Seconds from arrival to each milestone; only for a sequence that has an output."""
        assert self.scheduled_s is not None
        assert self.first_output_s is not None
        return Timings(
            queue_s=self.scheduled_s - self.arrival_s,
            first_token_s=self.first_output_s - self.arrival_s,
            total_s=time.monotonic() - self.arrival_s,
            num_preemptions=self.num_preemptions,
            cached_prompt_token_count=self.num_cached_prompt_tokens,
            drafted_token_count=self.drafter.num_drafted if self.drafter else 0,
            accepted_token_count=self.drafter.num_accepted if self.drafter else 0,
        )
