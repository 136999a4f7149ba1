"""Which tokens of which sequences the next step computes; pure policy, no tensors.

A step has one token budget. Sequences that decode come first, one token each; what is left goes to
prompts, in chunks: the tenants take turns (`turns.py`), each with its prompts in the order they
were started, then with the next of those that wait (`waiting.py`).

A sequence is started with blocks for all its known tokens, so only decoding asks for more; when
none is left, the one started last gives its blocks back and goes on later, computing again what the
prefix cache has lost by then. Nothing else is started before it, nor before one whose turn has come
but for which there is no room yet. So the one that was started first always makes progress, what
has been started ends, and what waits gets its turn: nobody starves.

Blocks that hold a sequence's beginning already are shared, never written: a full block is kept for
others once it is computed, and what a sequence still computes goes to blocks of its own.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from collections.abc import Sequence as Rows

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import Batch, Chunk, ChunkOutput
from phi3svc.engine.prefix import PrefixCache
from phi3svc.engine.removable_heap import RemovableHeap
from phi3svc.engine.request import GenerateRequest, check_prompt_len
from phi3svc.engine.sequence import OutputKind, SampledToken, Sequence, SequenceStatus
from phi3svc.engine.turns import QUANTUM, Turns
from phi3svc.engine.waiting import WaitingRoom
from phi3svc.errors import InvalidRequest, Overloaded


class Scheduler:
    """Owns every sequence and its blocks.

    context_len: tokens a sequence may have at most. rope_set: factor set for a sequence of that
    many tokens, 1 for the long one. quantum: see `turns.py`. clock: what deadlines are told by.
    """

    def __init__(
        self,
        config: EngineConfig,
        blocks: BlockManager,
        context_len: int,
        rope_set: Callable[[int], int],
        *,
        quantum: int = QUANTUM,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._blocks = blocks
        self._prefixes = PrefixCache(blocks, is_enabled=config.prefix_cache)
        self._context_len = min(context_len, blocks.num_blocks * blocks.block_size)
        self._rope_set = rope_set
        self._clock = clock
        self._open: dict[str, Sequence] = {}
        self._waiting = WaitingRoom()
        self._turns = Turns(config.tenant_weights, quantum)
        # To be started before any that waits, in this order: the preempted, then one whose turn
        # has come. Running ones are in the order of their start.
        self._due: OrderedDict[str, Sequence] = OrderedDict()
        self._running: OrderedDict[str, Sequence] = OrderedDict()
        self._deadlines: RemovableHeap[Sequence] = RemovableHeap()

    @property
    def context_len(self) -> int:
        return self._context_len

    @property
    def num_waiting(self) -> int:
        return len(self._open) - len(self._running)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._open)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises PromptTooLong if it can never fit, Overloaded if now is bad."""
        check_prompt_len(sequence.request, self._context_len)
        if sequence.request_id in self._open:
            raise InvalidRequest.of("request_id", f"{sequence.request_id!r} is in use")
        # Both together: what arrives between two steps waits, even where a place to run is free.
        max_open = self._config.max_sequences + self._config.max_waiting_requests
        if len(self._open) >= max_open:
            raise Overloaded(f"{max_open} requests are running or waiting, the limit")
        num_waiting_tokens = self._waiting.num_tokens
        # An empty queue takes any prompt: one that is longer than the bound could never come in.
        if (
            num_waiting_tokens > 0
            and num_waiting_tokens + sequence.num_tokens > self._config.max_waiting_tokens
        ):
            raise Overloaded(
                f"{num_waiting_tokens} prompt tokens are waiting and {sequence.num_tokens}"
                f" more would exceed the limit of {self._config.max_waiting_tokens}"
            )
        self._open[sequence.request_id] = sequence
        self._waiting.push(sequence)
        self._turns.join(sequence.request.tenant)
        if sequence.request.deadline_s is not None:
            self._deadlines.push(sequence, (sequence.request.deadline_s,))

    def cancel(self, request_id: str) -> None:
        """Forget a sequence and free its blocks now, even between `schedule` and `commit`."""
        sequence = self._open.get(request_id)
        if sequence is not None:
            self._end(sequence)

    def schedule(self) -> Batch:
        """Choose the next step's chunks; none only when no work is left."""
        expired = self._end_expired()
        self._make_room()
        chunks: list[Chunk] = []
        prompts: list[Sequence] = []
        budget = self._config.max_step_tokens
        for sequence in self._running.values():
            if sequence.num_uncomputed > 1:
                prompts.append(sequence)
            elif budget > 0:
                chunks.append(Chunk.of(sequence, 1))
                budget -= 1
        shares = self._share_out(budget, prompts)
        chunks += [Chunk.of(sequence, num_tokens) for sequence, num_tokens in shares.items()]
        return Batch(chunks, expired)

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
        sequence.append(sampled.token_id)
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

    def _end_expired(self) -> list[Sequence]:
        expired = []
        now_s = self._clock()
        while (first := self._deadlines.first()) is not None and first[0][0] <= now_s:
            expired.append(first[1])
            self._end(first[1])
        return expired

    def _share_out(self, budget: int, prompts: list[Sequence]) -> dict[Sequence, int]:
        """Tokens for each prompt: of those that run and, with what they leave, of new ones."""
        shares: dict[Sequence, int] = {}
        unfinished: dict[str, deque[Sequence]] = {}
        while budget > 0 and self._due and (sequence := self._start_due()) is not None:
            prompts.append(sequence)
        for sequence in prompts:
            unfinished.setdefault(sequence.request.tenant, deque()).append(sequence)
            self._turns.join(sequence.request.tenant)
        may_start = self._may_start()
        if not unfinished and not may_start:
            return shares
        takers = deque(tenant for tenant in self._turns if may_start or tenant in unfinished)
        while budget > 0 and takers:
            tenant = takers[0]
            own = unfinished.setdefault(tenant, deque())
            if not own and self._may_start() and self._waiting.has(tenant):
                own.extend(self._start_next(tenant))
            if not own:
                takers.popleft()
                if not self._waiting.has(tenant):
                    self._turns.leave(tenant)
                continue
            sequence = own[0]
            num_left = sequence.num_uncomputed - shares.get(sequence, 0)
            # Who is alone has no one to take turns with.
            allowed = self._turns.left(tenant) if len(takers) > 1 else budget
            num_tokens = min(budget, num_left, allowed)
            shares[sequence] = shares.get(sequence, 0) + num_tokens
            budget -= num_tokens
            if num_tokens == num_left:
                own.popleft()
            if len(takers) > 1 and self._turns.use(tenant, num_tokens):
                takers.rotate(-1)
        return shares

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

    def _may_start(self) -> bool:
        return not self._due and len(self._running) < self._config.max_sequences

    def _start_next(self, tenant: str) -> list[Sequence]:
        """Start the next of a tenant that wait; if there is no room, none, and it is due."""
        sequence = self._waiting.take(tenant)
        self._due[sequence.request_id] = sequence
        started = self._start_due()
        return [] if started is None else [started]

    def _start_due(self) -> Sequence | None:
        """Start the first that is due if there is room for all its known tokens."""
        if len(self._running) >= self._config.max_sequences:
            return None
        sequence = next(iter(self._due.values()))
        # One block of head room for each that runs: else a newcomer that just fits would be
        # computed only to be preempted by the next decode.
        if not self._take_blocks(sequence, num_spare=len(self._running)):
            return None
        del self._due[sequence.request_id]
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
        del self._running[sequence.request_id]
        self._free_blocks(sequence)
        sequence.num_preemptions += 1
        sequence.status = SequenceStatus.WAITING
        self._due[sequence.request_id] = sequence
        self._due.move_to_end(sequence.request_id, last=False)

    def _end(self, sequence: Sequence) -> None:
        del self._open[sequence.request_id]
        self._deadlines.discard(sequence)
        if sequence.status is SequenceStatus.RUNNING:
            del self._running[sequence.request_id]
            self._free_blocks(sequence)
        elif self._due.pop(sequence.request_id, None) is None:
            self._waiting.remove(sequence)
            if not self._waiting.has(sequence.request.tenant):
                self._turns.leave(sequence.request.tenant)
        sequence.status = SequenceStatus.ENDED
