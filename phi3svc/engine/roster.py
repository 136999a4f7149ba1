"""Who runs, who is due, who waits and who is set aside; starts them, and has them give way.

A sequence is started with blocks for all its known tokens, so only decoding asks for more; when
none is left, the one started last gives its blocks back and goes on later, computing again what the
prefix cache has lost by then. Nothing else is started before it, nor before one whose turn has come
but for which there is no room yet. So the one that was started first always makes progress, what
has been started ends, and what waits gets its turn: nobody starves.

Requests whose readers are behind are set aside (`paused.py`), with their blocks, which are the
first to be taken when others need some.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.open_requests import OpenRequests
from phi3svc.engine.paused import PausedRequests
from phi3svc.engine.room import Room
from phi3svc.engine.sequence import Sequence, SequenceStatus
from phi3svc.engine.turns import Turns
from phi3svc.engine.waiting import WaitingRoom


class Roster:
    """Owns every sequence.

    running: in the order of their start. due: to be started before any that waits, in this order:
    the preempted, then one whose turn has come. clock: what deadlines are told by.
    """

    def __init__(
        self, config: EngineConfig, room: Room, quantum: int, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._clock = clock
        self._open = OpenRequests(config)
        self._paused = PausedRequests()
        self._waiting = WaitingRoom()
        self.room = room
        self.turns = Turns(config.tenant_weights, quantum)
        self.due: OrderedDict[Sequence, None] = OrderedDict()
        self.running: OrderedDict[Sequence, None] = OrderedDict()

    @property
    def num_waiting(self) -> int:
        return len(self._open) - len(self.running)

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def has_work(self) -> bool:
        """Whether `schedule` would find anything to do. Paused requests alone are none."""
        if self.running or self.due or self._waiting.num_tokens > 0:
            return True
        return self._open.first_expired(self._clock()) is not None

    @property
    def next_deadline_s(self) -> float | None:
        """When there will be work at the latest, by the scheduler's clock."""
        return self._open.next_deadline_s

    def add(self, sequence: Sequence) -> list[Sequence]:
        """Queue a request by its first sequence; all of its sequences. Raises as `OpenRequests`."""
        members = self._open.add(sequence, self._waiting.num_tokens)
        self._waiting.push(sequence)
        self.turns.join(sequence.request.tenant)
        return members

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or one of its sequences, and free its blocks now.

        Even between `schedule` and `commit`. What is unknown is ignored.
        """
        for sequence in self._open.of(request_id):
            if index is None or sequence.index == index:
                self.end(sequence)

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
            if sequence.block_table and len(self.running) < self._config.max_sequences:
                sequence.status = SequenceStatus.RUNNING
                self.running[sequence] = None
            else:
                self.room.free(sequence)
                self._wait(sequence)

    def end_expired(self) -> list[Sequence]:
        expired = []
        now_s = self._clock()
        while (sequence := self._open.first_expired(now_s)) is not None:
            expired.append(sequence)
            self.cancel(sequence.request_id)
        return expired

    def make_room(self) -> None:
        """Give every running sequence a block for its last token, oldest first."""
        for sequence in list(self.running):
            while sequence.status is SequenceStatus.RUNNING and not self.room.extend(sequence):
                if not self._take_from_paused():
                    self._preempt(next(reversed(self.running)))

    def may_start(self) -> bool:
        return not self.due and len(self.running) < self._config.max_sequences

    def start_next(self, tenant: str) -> list[Sequence]:
        """Start the next of a tenant that wait; if there is no room, none, and it is due."""
        sequence = self._waiting.take(tenant)
        self.due[sequence] = None
        started = self.start_due()
        return [] if started is None else [started]

    def start_due(self) -> Sequence | None:
        """Start the first that is due if there is room for all its known tokens."""
        if len(self.running) >= self._config.max_sequences:
            return None
        sequence = next(iter(self.due))
        sequence.take_prompt()
        # One block of head room for each that runs: else a newcomer that just fits would be
        # computed only to be preempted by the next decode.
        while not self.room.take(sequence, num_spare=len(self.running)):
            if not self._take_from_paused():
                return None
        del self.due[sequence]
        sequence.status = SequenceStatus.RUNNING
        if sequence.scheduled_s is None:
            sequence.scheduled_s = time.monotonic()
            sequence.num_cached_prompt_tokens = sequence.num_computed
        self.running[sequence] = None
        return sequence

    def _preempt(self, sequence: Sequence) -> None:
        del self.running[sequence]
        self.room.free(sequence)
        sequence.num_preemptions += 1
        self._wait(sequence)

    def _take_from_paused(self) -> bool:
        """Free the blocks of one that is paused; false if none has any."""
        sequence = self._paused.first_with_blocks()
        if sequence is None:
            return False
        self.room.free(sequence)
        sequence.num_preemptions += 1
        return True

    def _wait(self, sequence: Sequence) -> None:
        """Have one that was preempted or paused start before any other."""
        sequence.status = SequenceStatus.WAITING
        self.due[sequence] = None
        self.due.move_to_end(sequence, last=False)

    def end(self, sequence: Sequence) -> None:
        self._open.remove(sequence)
        self.release_forks(sequence)
        self._take_out(sequence)
        self.room.free(sequence)
        sequence.status = SequenceStatus.ENDED
        if not self._open.of(sequence.request_id):
            self._paused.discard(sequence.request_id)

    def _take_out(self, sequence: Sequence) -> None:
        """Take it from where it runs, waits or is set aside."""
        match sequence.status:
            case SequenceStatus.RUNNING:
                del self.running[sequence]
            case SequenceStatus.PAUSED:
                self._paused.remove(sequence)
            case SequenceStatus.WAITING if sequence in self.due:
                del self.due[sequence]
            case SequenceStatus.WAITING:
                self._waiting.remove(sequence)
                if not self._waiting.has(sequence.request.tenant):
                    self.turns.leave(sequence.request.tenant)

    def release_forks(self, leader: Sequence) -> None:
        """Let the other answers start: their turn came with the first one's."""
        for fork in leader.forks:
            if fork.status is SequenceStatus.HELD:
                fork.status = SequenceStatus.WAITING
                if fork.request_id in self._paused:
                    self._paused.put(fork)
                else:
                    self.due[fork] = None
        leader.forks = []

    @property
    def may_come_in(self) -> bool:
        """Whether the next step may start any, or end one for its deadline."""
        may_start = self.may_start() and self._waiting.num_tokens > 0
        return bool(self.due) or may_start or self._open.first_expired(self._clock()) is not None

    def has_waiting(self, tenant: str) -> bool:
        return self._waiting.has(tenant)
