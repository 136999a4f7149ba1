"""Which tokens of which sequences the next step computes; pure policy, no tensors.

A step has one token budget. Sequences that decode come first, one token each; what is left goes to
prompts, in chunks, oldest first. A sequence is admitted with blocks for all its known tokens, so
only decoding asks for more; when none is left, the newest running sequence gives its blocks back
and goes on later, computing again what the prefix cache has lost by then. Running sequences are
therefore always older than waiting ones, and the oldest always makes progress: nobody starves.

Blocks that hold a sequence's beginning already are shared, never written: a full block is kept for
others once it is computed, and what a sequence still computes goes to blocks of its own.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.prefix import PrefixCache
from phi3svc.engine.request import GenerateRequest, check_prompt_len
from phi3svc.engine.sequence import (
    OutputKind,
    SampledToken,
    ScoreRows,
    Sequence,
    SequenceStatus,
)
from phi3svc.errors import InvalidRequest, Overloaded


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start .. end` of a sequence, to be computed in one step.

    wanted_rows: the tokens among them whose rows have an output that is wanted.
    """

    sequence: Sequence
    start: int
    end: int
    wanted_rows: range

    @classmethod
    def of(cls, sequence: Sequence, num_tokens: int) -> Chunk:
        """The next `num_tokens` of a sequence."""
        start = sequence.num_computed
        end = start + num_tokens
        return cls(sequence, start, end, sequence.wanted_rows(start, end))

    @property
    def num_tokens(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes, in the order of its rows."""

    chunks: list[Chunk]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


ChunkOutput = SampledToken | ScoreRows | None
"""What a step found for one chunk: its next token, its score rows, or nothing yet."""


class Scheduler:
    """Owns every sequence and its blocks.

    context_len: tokens a sequence may have at most. rope_set: factor set for a sequence of that
    many tokens, 1 for the long one.
    """

    def __init__(
        self,
        config: EngineConfig,
        blocks: BlockManager,
        context_len: int,
        rope_set: Callable[[int], int],
    ) -> None:
        self._config = config
        self._blocks = blocks
        self._prefixes = PrefixCache(blocks, is_enabled=config.prefix_cache)
        self._context_len = min(context_len, blocks.num_blocks * blocks.block_size)
        self._rope_set = rope_set
        # Both in order of arrival; ordered dictionaries, so that cancelling costs no search.
        self._waiting: OrderedDict[str, Sequence] = OrderedDict()
        self._running: OrderedDict[str, Sequence] = OrderedDict()
        self._num_waiting_tokens = 0

    @property
    def context_len(self) -> int:
        return self._context_len

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises PromptTooLong if it can never fit, Overloaded if now is bad."""
        check_prompt_len(sequence.request, self._context_len)
        if sequence.request_id in self._waiting or sequence.request_id in self._running:
            raise InvalidRequest.of("request_id", f"{sequence.request_id!r} is in use")
        # Both together: what arrives between two steps waits, even where a place to run is free.
        max_open = self._config.max_sequences + self._config.max_waiting_requests
        if self.num_running + self.num_waiting >= max_open:
            raise Overloaded(f"{max_open} requests are running or waiting, the limit")
        num_waiting_tokens = self._num_waiting_tokens + sequence.num_tokens
        # An empty queue takes any prompt: one that is longer than the bound could never come in.
        if self._waiting and num_waiting_tokens > self._config.max_waiting_tokens:
            raise Overloaded(
                f"{self._num_waiting_tokens} prompt tokens are waiting and {sequence.num_tokens}"
                f" more would exceed the limit of {self._config.max_waiting_tokens}"
            )
        self._push_waiting(sequence)

    def cancel(self, request_id: str) -> None:
        """Forget a sequence and free its blocks now, even between `schedule` and `commit`."""
        sequence = self._waiting.get(request_id) or self._running.get(request_id)
        if sequence is not None:
            self._end(sequence)

    def schedule(self) -> Batch:
        """Choose the next step's chunks; empty only when there is no work."""
        self._make_room()
        chunks: list[Chunk] = []
        budget = self._config.max_step_tokens
        candidates = self._candidates()
        while budget > 0 and (sequence := next(candidates, None)) is not None:
            num_tokens = min(budget, sequence.num_uncomputed)
            chunks.append(Chunk.of(sequence, num_tokens))
            budget -= num_tokens
        return Batch(chunks)

    def commit(self, batch: Batch, outputs: Rows[ChunkOutput]) -> None:
        """Take in what the step found, one output per chunk; end and free what is complete.

        Chunks of sequences that were cancelled meanwhile fall away.
        """
        for chunk, output in zip(batch.chunks, outputs, strict=True):
            sequence = chunk.sequence
            if sequence.has_ended:
                continue
            sequence.num_computed += chunk.num_tokens
            self._prefixes.keep(sequence)
            if output is None:
                continue
            if sequence.first_output_s is None:
                sequence.first_output_s = time.monotonic()
            if isinstance(output, SampledToken):
                self._append(sequence, output)
            else:
                sequence.scores += output
                is_pooled = sequence.output_kind is OutputKind.POOLED_SCORES
                if is_pooled or sequence.num_uncomputed == 0:
                    self._end(sequence)

    def _append(self, sequence: Sequence, sampled: SampledToken) -> None:
        request = sequence.request
        assert isinstance(request, GenerateRequest)
        sequence.token_ids.append(sampled.token_id)
        if sampled.token_id in request.stop_token_ids:
            sequence.finish_reason = "stop_token"
        elif (
            sequence.num_generated >= request.max_new_tokens
            or sequence.num_tokens >= self._context_len
        ):
            sequence.finish_reason = "length"
        if sequence.finish_reason is not None:
            self._end(sequence)
        elif self._rope_set(sequence.num_tokens) != sequence.rope_set:
            # LongRoPE is a property of the whole sequence: with other factors, the keys and values
            # of every token change. Others may hold its blocks too: it gets new ones.
            self._free_blocks(sequence)

    def _candidates(self) -> Iterator[Sequence]:
        """Sequences in the order they are served; waiting ones are admitted as they are taken."""
        running = list(self._running.values())
        yield from (sequence for sequence in running if sequence.num_uncomputed == 1)
        yield from (sequence for sequence in running if sequence.num_uncomputed > 1)
        while (admitted := self._admit()) is not None:
            yield admitted

    def _make_room(self) -> None:
        """Give every running sequence a block for its last token, oldest first."""
        for sequence in list(self._running.values()):
            while sequence.status is SequenceStatus.RUNNING and not self._has_room(sequence):
                self._preempt(next(reversed(self._running.values())))

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether a running sequence has blocks for its tokens now; gives it what is missing."""
        if not sequence.block_table:
            return self._take_blocks(sequence, num_spare=0)
        if sequence.num_tokens <= len(sequence.block_table) * self._blocks.block_size:
            return True
        if self._blocks.num_free == 0:
            return False
        sequence.block_table.extend(self._blocks.allocate(1))
        return True

    def _admit(self) -> Sequence | None:
        """Start the oldest waiting sequence if there is room for all its known tokens."""
        if not self._waiting or len(self._running) >= self._config.max_sequences:
            return None
        sequence = next(iter(self._waiting.values()))
        # One block of head room for each that runs: else a newcomer that just fits would be
        # computed only to be preempted by the next decode.
        if not self._take_blocks(sequence, num_spare=len(self._running)):
            return None
        self._pop_waiting(sequence)
        sequence.status = SequenceStatus.RUNNING
        if sequence.scheduled_s is None:
            sequence.scheduled_s = time.monotonic()
            sequence.num_cached_prompt_tokens = sequence.num_computed
        self._running[sequence.request_id] = sequence
        return sequence

    def _take_blocks(self, sequence: Sequence, num_spare: int) -> bool:
        """Give a sequence blocks for all its known tokens, if `num_spare` are left free by that.

        They are those that hold its beginning already, and new ones for what is to be computed,
        with the factors for its present length.
        """
        rope_set = self._rope_set(sequence.num_tokens)
        if rope_set != sequence.rope_set:
            sequence.rope_set = rope_set
            sequence.prefix_chain.clear()
        known = self._prefixes.find(sequence)
        num_new = self._blocks.num_blocks_for(sequence.num_tokens) - len(known)
        num_idle = sum(self._blocks.num_holders(block_id) == 0 for block_id in known)
        if num_new + num_idle + num_spare > self._blocks.num_free:
            return False
        self._blocks.hold(known)
        sequence.block_table.extend(known)
        sequence.block_table.extend(self._blocks.allocate(num_new))
        sequence.num_kept_blocks = len(known)
        sequence.num_computed = len(known) * self._blocks.block_size
        del sequence.scores[sequence.num_computed :]
        return True

    def _free_blocks(self, sequence: Sequence) -> None:
        self._blocks.free(sequence.block_table)
        del sequence.block_table[:]
        sequence.num_computed = 0

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.num_preemptions += 1
        sequence.status = SequenceStatus.WAITING
        self._push_waiting(sequence)
        self._waiting.move_to_end(sequence.request_id, last=False)

    def _end(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.WAITING:
            self._pop_waiting(sequence)
        else:
            self._release(sequence)
        sequence.status = SequenceStatus.ENDED

    def _release(self, sequence: Sequence) -> None:
        del self._running[sequence.request_id]
        self._free_blocks(sequence)

    def _push_waiting(self, sequence: Sequence) -> None:
        self._waiting[sequence.request_id] = sequence
        self._num_waiting_tokens += sequence.num_tokens

    def _pop_waiting(self, sequence: Sequence) -> None:
        del self._waiting[sequence.request_id]
        self._num_waiting_tokens -= sequence.num_tokens
