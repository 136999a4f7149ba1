"""The requests that wait to be started, by tenant.

Within a tenant the most urgent comes first: the highest priority, then the nearest deadline, then
the oldest. Every eighth pick is the tenant's oldest whatever its urgency, so that a stream of
urgent requests delays the others and starves none. Whose turn it is among the tenants, `turns.py`
says; nobody's priority counts against another tenant.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from phi3svc.engine.removable_heap import RemovableHeap
from phi3svc.engine.sequence import Sequence

PICKS_PER_OLDEST = 8


class WaitingRoom:
    """Every operation takes logarithmic time in what waits."""

    def __init__(self) -> None:
        self._queues: dict[str, _TenantQueue] = {}
        self._num_tokens = 0

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    def has(self, tenant: str) -> bool:
        """Whether anything of this tenant waits."""
        return tenant in self._queues

    def push(self, sequence: Sequence) -> None:
        self._queues.setdefault(sequence.request.tenant, _TenantQueue()).push(sequence)
        self._num_tokens += sequence.num_tokens

    def take(self, tenant: str) -> Sequence:
        """The one of a waiting tenant that is to start next."""
        sequence = self._queues[tenant].pick()
        self.remove(sequence)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Forget one that waits."""
        tenant = sequence.request.tenant
        queue = self._queues[tenant]
        queue.remove(sequence)
        if len(queue) == 0:
            del self._queues[tenant]
        self._num_tokens -= sequence.num_tokens


class _TenantQueue:
    def __init__(self) -> None:
        self._by_urgency: RemovableHeap[Sequence] = RemovableHeap()
        self._by_age: OrderedDict[Sequence, None] = OrderedDict()
        self._num_picks = 0

    def __len__(self) -> int:
        return len(self._by_age)

    def push(self, sequence: Sequence) -> None:
        request = sequence.request
        deadline_s = math.inf if request.deadline_s is None else request.deadline_s
        self._by_urgency.push(sequence, (-request.priority, deadline_s))
        self._by_age[sequence] = None

    def pick(self) -> Sequence:
        self._num_picks += 1
        urgent = self._by_urgency.first()
        assert urgent is not None
        if self._num_picks % PICKS_PER_OLDEST == 0:
            return next(iter(self._by_age))
        return urgent[1]

    def remove(self, sequence: Sequence) -> None:
        self._by_urgency.discard(sequence)
        del self._by_age[sequence]
