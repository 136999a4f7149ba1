"""The requests that have not ended: their sequences, their deadlines, and how many there may be."""

from __future__ import annotations

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.removable_heap import RemovableHeap
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.sequence import Sequence, SequenceStatus
from phi3svc.errors import InvalidRequest, Overloaded


class OpenRequests:
    """By request, those of its sequences that have not ended, its first answer's first."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._sequences: dict[str, list[Sequence]] = {}
        self._num_sequences = 0
        self._deadlines: RemovableHeap[Sequence] = RemovableHeap()

    def __len__(self) -> int:
        """Sequences, not requests."""
        return self._num_sequences

    def of(self, request_id: str) -> list[Sequence]:
        """Those of a request, the last first: a leader that ends lets its forks go on."""
        return list(reversed(self._sequences.get(request_id, ())))

    def add(self, leader: Sequence, num_waiting_tokens: int) -> list[Sequence]:
        """Take in a request by its first sequence, and make those of its other answers.

        num_waiting_tokens: of the prompts that are not started. Raises InvalidRequest for an id
        that is in use, Overloaded if there are too many.
        """
        if leader.request_id in self._sequences:
            raise InvalidRequest.of("request_id", f"{leader.request_id!r} is in use")
        request = leader.request
        num_sequences = request.n if isinstance(request, GenerateRequest) else 1
        self._check_room(leader, num_sequences, num_waiting_tokens)
        leader.forks = [
            Sequence(request, index=index, status=SequenceStatus.HELD)
            for index in range(1, num_sequences)
        ]
        members = [leader, *leader.forks]
        self._sequences[leader.request_id] = list(members)
        self._num_sequences += num_sequences
        if request.deadline_s is not None:
            for member in members:
                self._deadlines.push(member, (request.deadline_s,))
        return members

    def remove(self, sequence: Sequence) -> None:
        """Forget one that ends."""
        members = self._sequences[sequence.request_id]
        members.remove(sequence)
        if not members:
            del self._sequences[sequence.request_id]
        self._num_sequences -= 1
        self._deadlines.discard(sequence)

    @property
    def next_deadline_s(self) -> float | None:
        """Of any of them; None if they have none."""
        first = self._deadlines.first()
        return first[0][0] if first is not None else None

    def first_expired(self, now_s: float) -> Sequence | None:
        """The one whose deadline passed first, or None."""
        first = self._deadlines.first()
        return first[1] if first is not None and first[0][0] <= now_s else None

    def _check_room(self, leader: Sequence, num_sequences: int, num_waiting_tokens: int) -> None:
        # Both together: what arrives between two steps waits, even where a place to run is free.
        max_open = self._config.max_sequences + self._config.max_waiting_requests
        # An empty queue takes any request: one beyond the bounds could never come in.
        if self._num_sequences > 0 and self._num_sequences + num_sequences > max_open:
            raise Overloaded(
                f"{self._num_sequences} sequences are running or waiting and {num_sequences} more"
                f" would exceed the limit of {max_open}; try again later"
            )
        max_tokens = self._config.max_waiting_tokens
        if num_waiting_tokens > 0 and num_waiting_tokens + leader.num_tokens > max_tokens:
            raise Overloaded(
                f"{num_waiting_tokens} prompt tokens are waiting and {leader.num_tokens}"
                f" more would exceed the limit of {max_tokens}"
            )
