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
others once it is computed, and what a sequence still computes goes to blocks of its own. So the
answers of one request, too, share the prompt's: the first one computes it, and the others, its
forks, start behind it.

Requests whose readers are behind are set aside (`paused.py`), with their blocks, which are the
first to be taken when others need some.

Where it pays, a step computes guesses of what follows a sequence's last token (`speculation.py`).
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from collections.abc import Sequence as Rows

from msgspec import Struct

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import Batch, Chunk, ChunkOutput, Generated, SampledToken
from phi3svc.engine.open_requests import OpenRequests
from phi3svc.engine.paused import PausedRequests
from phi3svc.engine.prefix import PrefixCache
from phi3svc.engine.request import GenerateRequest, check_prompt_len
from phi3svc.engine.room import Room
from phi3svc.engine.sequence import OutputKind, Sequence, SequenceStatus
from phi3svc.engine.speculation import Speculation
from phi3svc.engine.turns import QUANTUM, Turns
from phi3svc.engine.waiting import WaitingRoom


class Progress(Struct, frozen=True):
    """What a step brought a sequence: tokens that it has now, and how it began.

    prompt_start: index of the first prompt token whose log probability came.
    """

    sequence: Sequence
    output: Generated | None
    prompt_start: int = 0


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
        prefixes = PrefixCache(blocks, is_enabled=config.prefix_cache)
        self._room = Room(blocks, prefixes, rope_set)
        self._context_len = min(context_len, blocks.num_blocks * blocks.block_size)
        self._rope_set = rope_set
        self._clock = clock
        self._speculation = Speculation(config.max_draft_tokens, self._context_len, rope_set)
        self._open = OpenRequests(config)
        self._paused = PausedRequests()
        self._waiting = WaitingRoom()
        self._turns = Turns(config.tenant_weights, quantum)
        # To be started before any that waits, in this order: the preempted, then one whose turn
        # has come. Running ones are in the order of their start.
        self._due: OrderedDict[Sequence, None] = OrderedDict()
        self._running: OrderedDict[Sequence, None] = OrderedDict()

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
        """Whether `schedule` would find anything to do. Paused requests alone are none."""
        if self._running or self._due or self._waiting.num_tokens > 0:
            return True
        return self._open.first_expired(self._clock()) is not None

    @property
    def next_deadline_s(self) -> float | None:
        """When there will be work at the latest, by the scheduler's clock."""
        return self._open.next_deadline_s

    def add(self, sequence: Sequence) -> None:
        """Queue a request by its first sequence; those of its other answers come by themselves.

        Raises PromptTooLong if it can never fit, Overloaded if now is bad.
        """
        check_prompt_len(sequence.request, self._context_len)
        for member in self._open.add(sequence, self._waiting.num_tokens):
            member.drafter = self._speculation.drafter_for(member)
        self._waiting.push(sequence)
        self._turns.join(sequence.request.tenant)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or one of its sequences, and free its blocks now.

        Even between `schedule` and `commit`. What is unknown is ignored.
        """
        for sequence in self._open.of(request_id):
            if index is None or sequence.index == index:
                self._end(sequence)

    def pause(self, request_id: str) -> None:
        """Give a request no more tokens until `resume`; a step under way may still bring some.

        Its sequences keep their blocks until others need them. What is unknown is ignored.
        """
        members = self._open.of(request_id)
        if not members or request_id in self._paused:
            return
        self._paused.add(request_id)
        for sequence in members:
            if sequence.status is not SequenceStatus.HELD:
                self._take_out(sequence)
                self._paused.put(sequence)

    def resume(self, request_id: str) -> None:
        """Go on with a paused request, where others leave room for it at once."""
        for sequence in self._paused.discard(request_id):
            if sequence.block_table and len(self._running) < self._config.max_sequences:
                sequence.status = SequenceStatus.RUNNING
                self._running[sequence] = None
            else:
                self._room.free(sequence)
                self._wait(sequence)

    def schedule(self) -> Batch:
        """Choose the next step's chunks; none only when no work is left."""
        expired = self._end_expired()
        self._make_room()
        decodes: list[Sequence] = []
        prompts: list[Sequence] = []
        budget = self._config.max_step_tokens
        for sequence in self._running:
            if sequence.num_uncomputed > 1:
                prompts.append(sequence)
            elif len(decodes) < budget:
                decodes.append(sequence)
        budget -= len(decodes)
        shares = self._share_out(budget, prompts)
        if shares:
            # Prompts are bound by arithmetic, where no row comes cheap: nothing is guessed.
            chunks = [Chunk.of(sequence, 1) for sequence in decodes]
            chunks += [Chunk.of(sequence, num_tokens) for sequence, num_tokens in shares.items()]
        else:
            chunks = self._guess_ahead(decodes, budget)
        return Batch(chunks, expired)

    def continued(self, batch: Batch) -> Batch | None:
        """What `schedule` will say behind `batch` if no sequence in it draws a stop token.

        For preparing that step while `batch` is computed. None if a sequence is going to end or to
        be computed anew in any case, if others may come in, or if a text has begun to repeat, so
        that guesses may pay.
        """
        if self._due or (self._waiting.num_tokens > 0 and self._may_start()):
            return None
        if len(batch.chunks) != len(self._running):
            return None
        if self._open.first_expired(self._clock()) is not None:
            return None
        price = self._speculation.price(len(batch.chunks))
        if not all(self._goes_on(chunk, price) for chunk in batch.chunks):
            return None
        return Batch(
            [
                Chunk(chunk.sequence, chunk.end, chunk.end + 1, range(chunk.end, chunk.end + 1))
                for chunk in batch.chunks
            ]
        )

    def _goes_on(self, chunk: Chunk, price: float) -> bool:
        """Whether a chunk gives its sequence one token, and the sequence then wants the next."""
        sequence = chunk.sequence
        request = sequence.request
        num_tokens = sequence.num_tokens + 1
        return (
            sequence.status is SequenceStatus.RUNNING
            and chunk.start + 2 == chunk.end + 1 == num_tokens
            and not chunk.draft
            and not chunk.prompt_rows
            and isinstance(request, GenerateRequest)
            and num_tokens - len(request.prompt_ids) < request.max_new_tokens
            and num_tokens < self._context_len
            and self._rope_set(num_tokens) == sequence.rope_set
            and not self._speculation.would_pay(sequence, price)
            and self._room.extend(sequence, 1, num_spare=len(self._running))
        )

    def observe(self, batch: Batch, seconds: float) -> None:
        """Take in how long a batch of this scheduler's took."""
        if all(chunk.end - chunk.start == 1 for chunk in batch.chunks):
            self._speculation.observe(len(batch.chunks), batch.num_tokens, seconds)

    def commit(self, batch: Batch, outputs: Rows[ChunkOutput]) -> list[Progress]:
        """Take in what the step found, one output per chunk; end and free what is complete.

        Chunks of sequences that were cancelled meanwhile, or lost their blocks, fall away. Tells,
        for every other chunk with an output, what came of it.
        """
        told = []
        for chunk, output in zip(batch.chunks, outputs, strict=True):
            sequence = chunk.sequence
            if sequence.has_ended or not sequence.block_table:
                continue
            sequence.num_computed = chunk.end
            if output is None:
                self._room.keep(sequence)
                continue
            if sequence.first_output_s is None:
                sequence.first_output_s = time.monotonic()
            if isinstance(output, Generated):
                told.append(self._take_generated(chunk, output))
                continue
            self._room.keep(sequence)
            sequence.scores += output
            is_pooled = sequence.output_kind is OutputKind.POOLED_SCORES
            if is_pooled or sequence.num_uncomputed == 0:
                self._end(sequence)
                told.append(Progress(sequence, None))
        return told

    def _take_generated(self, chunk: Chunk, output: Generated) -> Progress:
        sequence = chunk.sequence
        prompt_start = sequence.num_prompt_logprobs + 1
        if output.prompt is not None:
            sequence.num_prompt_logprobs += len(output.prompt.logprobs)
        tokens = output.tokens
        if chunk.draft:
            self._speculation.learn(sequence, len(chunk.draft), max(0, len(tokens) - 1))
        num_taken = 0
        while num_taken < len(tokens) and sequence.finish_reason is None:
            self._append(sequence, tokens[num_taken])
            num_taken += 1
        # Guesses that were right have their keys and values now; behind them lies rubbish, which
        # is written over before it is read.
        sequence.num_computed += max(0, num_taken - 1)
        self._room.keep(sequence)
        if num_taken and sequence.forks:
            self._release_forks(sequence)
        if sequence.finish_reason is not None:
            self._end(sequence)
        elif self._rope_set(sequence.num_tokens) != sequence.rope_set:
            # LongRoPE is a property of the whole sequence: with other factors, the keys and values
            # of every token change. Others may hold its blocks too: it gets new ones.
            self._room.free(sequence)
        if num_taken < len(tokens):
            output = Generated(tokens[:num_taken], output.prompt)
        return Progress(sequence, output, prompt_start)

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

    def _release_forks(self, leader: Sequence) -> None:
        """Let the other answers start: their turn came with the first one's."""
        for fork in leader.forks:
            if fork.status is SequenceStatus.HELD:
                fork.status = SequenceStatus.WAITING
                if fork.request_id in self._paused:
                    self._paused.put(fork)
                else:
                    self._due[fork] = None
        leader.forks = []

    def _guess_ahead(self, decodes: list[Sequence], budget: int) -> list[Chunk]:
        price = self._speculation.price(len(decodes))
        drafts = []
        for sequence in decodes:
            draft: list[int] = []
            if budget > 0 and self._speculation.may_draft(sequence):
                draft = self._speculation.draft(sequence, budget, price)
            # A guess is no reason to preempt anyone at the next step.
            if draft and not self._room.extend(sequence, len(draft), num_spare=len(self._running)):
                draft = []
            budget -= len(draft)
            drafts.append(draft)
        if any(drafts) and not self._speculation.pays(decodes, drafts):
            drafts = [[] for _ in decodes]
        return [Chunk.guessed(*guess) for guess in zip(decodes, drafts, strict=True)]

    def _end_expired(self) -> list[Sequence]:
        expired = []
        now_s = self._clock()
        while (sequence := self._open.first_expired(now_s)) is not None:
            expired.append(sequence)
            self.cancel(sequence.request_id)
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
        for sequence in list(self._running):
            while sequence.status is SequenceStatus.RUNNING and not self._room.extend(sequence):
                if not self._take_from_paused():
                    self._preempt(next(reversed(self._running)))

    def _may_start(self) -> bool:
        return not self._due and len(self._running) < self._config.max_sequences

    def _start_next(self, tenant: str) -> list[Sequence]:
        """Start the next of a tenant that wait; if there is no room, none, and it is due."""
        sequence = self._waiting.take(tenant)
        self._due[sequence] = None
        started = self._start_due()
        return [] if started is None else [started]

    def _start_due(self) -> Sequence | None:
        """Start the first that is due if there is room for all its known tokens."""
        if len(self._running) >= self._config.max_sequences:
            return None
        sequence = next(iter(self._due))
        sequence.take_prompt()
        # One block of head room for each that runs: else a newcomer that just fits would be
        # computed only to be preempted by the next decode.
        while not self._room.take(sequence, num_spare=len(self._running)):
            if not self._take_from_paused():
                return None
        del self._due[sequence]
        sequence.status = SequenceStatus.RUNNING
        if sequence.scheduled_s is None:
            sequence.scheduled_s = time.monotonic()
            sequence.num_cached_prompt_tokens = sequence.num_computed
        self._running[sequence] = None
        return sequence

    def _preempt(self, sequence: Sequence) -> None:
        del self._running[sequence]
        self._room.free(sequence)
        sequence.num_preemptions += 1
        self._wait(sequence)

    def _take_from_paused(self) -> bool:
        """Free the blocks of one that is paused; false if none has any."""
        sequence = self._paused.first_with_blocks()
        if sequence is None:
            return False
        self._room.free(sequence)
        sequence.num_preemptions += 1
        return True

    def _wait(self, sequence: Sequence) -> None:
        """Have one that was preempted or paused start before any other."""
        sequence.status = SequenceStatus.WAITING
        self._due[sequence] = None
        self._due.move_to_end(sequence, last=False)

    def _end(self, sequence: Sequence) -> None:
        self._open.remove(sequence)
        self._release_forks(sequence)
        self._take_out(sequence)
        self._room.free(sequence)
        sequence.status = SequenceStatus.ENDED
        if not self._open.of(sequence.request_id):
            self._paused.discard(sequence.request_id)

    def _take_out(self, sequence: Sequence) -> None:
        """Take it from where it runs, waits or is set aside."""
        match sequence.status:
            case SequenceStatus.RUNNING:
                del self._running[sequence]
            case SequenceStatus.PAUSED:
                self._paused.remove(sequence)
            case SequenceStatus.WAITING if sequence in self._due:
                del self._due[sequence]
            case SequenceStatus.WAITING:
                self._waiting.remove(sequence)
                if not self._waiting.has(sequence.request.tenant):
                    self._turns.leave(sequence.request.tenant)
