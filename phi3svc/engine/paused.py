"""Requests that get no tokens for now, because their readers are behind."""

from __future__ import annotations

from collections import OrderedDict

from phi3svc.engine.sequence import Sequence, SequenceStatus


class PausedRequests:
    """Which ones, and those of their sequences that would otherwise run or wait.

    A sequence keeps its blocks here until others need them.
    """

    def __init__(self) -> None:
        self._request_ids: set[str] = set()
        self._sequences: OrderedDict[Sequence, None] = OrderedDict()

    def __len__(self) -> int:
        """Sequences, not requests."""
        return len(self._sequences)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._request_ids

    def add(self, request_id: str) -> None:
        self._request_ids.add(request_id)

    def discard(self, request_id: str) -> list[Sequence]:
        """Forget a request, if it is here; its sequences, to be put elsewhere."""
        if request_id not in self._request_ids:
            return []
        self._request_ids.discard(request_id)
        own = [s for s in self._sequences if s.request_id == request_id]
        for sequence in own:
            self.remove(sequence)
        return own

    def put(self, sequence: Sequence) -> None:
        """Set a sequence of such a request aside."""
        sequence.status = SequenceStatus.PAUSED
        self._sequences[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        del self._sequences[sequence]

    def first_with_blocks(self) -> Sequence | None:
        """Of those that hold blocks, the one that was set aside first."""
        return next((s for s in self._sequences if s.block_table), None)
