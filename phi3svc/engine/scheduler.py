"""Which tokens of which sequences the next step computes; pure policy, no tensors.

A step has one token budget. Sequences that decode come first, one token each; what is left goes to
prompts, in chunks: the tenants take turns (`turns.py`), each with its prompts in the order they
were started, then with the next of those that wait (`waiting.py`).

When sequences start, and who gives way when memory is short, `roster.py` says: nobody starves.

Blocks that hold a sequence's beginning already are shared, never written: a full block is kept for
others once it is computed, and what a sequence still computes goes to blocks of its own. So the
answers of one request, too, share the prompt's: the first one computes it, and the others, its
forks, start behind it.

Where it pays, a step computes guesses of what follows a sequence's last token (`speculation.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Rows

from msgspec import Struct

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import Batch, Chunk, ChunkOutput, Generated, SampledToken
from phi3svc.engine.prefix import PrefixCache
from phi3svc.engine.request import GenerateRequest, check_prompt_len
from phi3svc.engine.room import Room
from phi3svc.engine.roster import Roster
from phi3svc.engine.sequence import OutputKind, Sequence, SequenceStatus
from phi3svc.engine.speculation import Speculation
from phi3svc.engine.turns import QUANTUM


class Progress(Struct, frozen=True):
    """What a step brought a sequence: tokens that it has now, and how it began.

    prompt_start: index of the first prompt token whose log probability came.
    """

    sequence: Sequence
    output: Generated | None
    prompt_start: int = 0


class Scheduler:
    """What each step of one model computes.

    context_len: tokens a sequence may have at most. rope_set: factor set for a sequence of that
    many tokens, 1 for the long one. device_type: what computes the steps, "cpu" or "cuda".
    quantum: see `turns.py`. clock: what deadlines are told by.
    """

    def __init__(
        self,
        config: EngineConfig,
        blocks: BlockManager,
        context_len: int,
        rope_set: Callable[[int], int],
        *,
        device_type: str = "cpu",
        quantum: int = QUANTUM,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step_tokens = config.step_tokens(device_type)
        prefixes = PrefixCache(blocks, is_enabled=config.prefix_cache)
        self._room = Room(blocks, prefixes, rope_set)
        self._roster = Roster(config, self._room, quantum, clock)
        self._context_len = min(context_len, blocks.num_blocks * blocks.block_size)
        self._rope_set = rope_set
        self._speculation = Speculation(config.max_draft_tokens, self._context_len, rope_set)

    @property
    def context_len(self) -> int:
        return self._context_len

    @property
    def num_waiting(self) -> int:
        return self._roster.num_waiting

    @property
    def num_running(self) -> int:
        return self._roster.num_running

    @property
    def has_work(self) -> bool:
        """Whether `schedule` would find anything to do. Paused requests alone are none."""
        return self._roster.has_work

    @property
    def next_deadline_s(self) -> float | None:
        """When there will be work at the latest, by the scheduler's clock."""
        return self._roster.next_deadline_s

    def add(self, sequence: Sequence) -> None:
        """Queue a request by its first sequence; those of its other answers come by themselves.

        Raises PromptTooLong if it can never fit, Overloaded if now is bad.
        """
        check_prompt_len(sequence.request, self._context_len)
        for member in self._roster.add(sequence):
            member.drafter = self._speculation.drafter_for(member)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or one of its sequences: see `Roster`."""
        self._roster.cancel(request_id, index)

    def pause(self, request_id: str) -> None:
        """Give a request no more tokens until `resume`: see `Roster`."""
        self._roster.pause(request_id)

    def resume(self, request_id: str) -> None:
        """Go on with a paused request."""
        self._roster.resume(request_id)

    def schedule(self) -> Batch:
        """Choose the next step's chunks; none only when no work is left."""
        expired = self._roster.end_expired()
        self._roster.make_room()
        decodes: list[Sequence] = []
        prompts: list[Sequence] = []
        budget = self._step_tokens
        for sequence in self._roster.running:
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
        if self._roster.may_come_in or len(batch.chunks) != len(self._roster.running):
            return None
        if not all(map(self._goes_on, batch.chunks)):
            return None
        sequences = [chunk.sequence for chunk in batch.chunks]
        price = self._speculation.price(len(sequences))
        drafts = [self._speculation.peek(sequence, price) for sequence in sequences]
        if any(drafts) and self._speculation.pays(sequences, drafts):
            return None
        return Batch(
            [
                Chunk(chunk.sequence, chunk.end, chunk.end + 1, range(chunk.end, chunk.end + 1))
                for chunk in batch.chunks
            ]
        )

    def _goes_on(self, chunk: Chunk) -> bool:
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
            and self._room.extend(sequence, 1, num_spare=len(self._roster.running))
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
                self._roster.end(sequence)
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
            self._roster.release_forks(sequence)
        if sequence.finish_reason is not None:
            self._roster.end(sequence)
        elif self._rope_set(sequence.num_tokens) != sequence.rope_set:
            # RoPE's set is a property of the whole sequence: with another one, the keys and values
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

    def _guess_ahead(self, decodes: list[Sequence], budget: int) -> list[Chunk]:
        price = self._speculation.price(len(decodes))
        num_spare = len(self._roster.running)
        drafts = []
        for sequence in decodes:
            draft: list[int] = []
            if budget > 0 and self._speculation.may_draft(sequence):
                draft = self._speculation.draft(sequence, budget, price)
            # A guess is no reason to preempt anyone at the next step.
            if draft and not self._room.extend(sequence, len(draft), num_spare=num_spare):
                draft = []
            budget -= len(draft)
            drafts.append(draft)
        if any(drafts) and not self._speculation.pays(decodes, drafts):
            drafts = [[] for _ in decodes]
        return [Chunk.guessed(*guess) for guess in zip(decodes, drafts, strict=True)]

    def _share_out(self, budget: int, prompts: list[Sequence]) -> dict[Sequence, int]:
        """Tokens for each prompt: of those that run and, with what they leave, of new ones."""
        shares: dict[Sequence, int] = {}
        unfinished: dict[str, deque[Sequence]] = {}
        while (
            budget > 0 and self._roster.due and (sequence := self._roster.start_due()) is not None
        ):
            prompts.append(sequence)
        for sequence in prompts:
            unfinished.setdefault(sequence.request.tenant, deque()).append(sequence)
            self._roster.turns.join(sequence.request.tenant)
        may_start = self._roster.may_start()
        if not unfinished and not may_start:
            return shares
        takers = deque(tenant for tenant in self._roster.turns if may_start or tenant in unfinished)
        while budget > 0 and takers:
            tenant = takers[0]
            own = unfinished.setdefault(tenant, deque())
            if not own and self._roster.may_start() and self._roster.has_waiting(tenant):
                own.extend(self._roster.start_next(tenant))
            if not own:
                takers.popleft()
                if not self._roster.has_waiting(tenant):
                    self._roster.turns.leave(tenant)
                continue
            sequence = own[0]
            num_left = sequence.num_uncomputed - shares.get(sequence, 0)
            # Who is alone has no one to take turns with.
            allowed = self._roster.turns.left(tenant) if len(takers) > 1 else budget
            num_tokens = min(budget, num_left, allowed)
            shares[sequence] = shares.get(sequence, 0) + num_tokens
            budget -= num_tokens
            if num_tokens == num_left:
                own.popleft()
            if len(takers) > 1 and self._roster.turns.use(tenant, num_tokens):
                takers.rotate(-1)
        return shares
