"""Whose turn it is: deficit round robin over the tenants that have prompts to compute.

M. Shreedhar and G. Varghese, Efficient fair queueing using deficit round robin, SIGCOMM 1995; as
prompts can be cut anywhere, what is left of a turn is used up exactly and no deficit grows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

QUANTUM = 128
"""Prompt tokens a tenant of weight 1 may have computed in one turn: several turns fit in a step."""


class Turns:
    """A ring of tenants, each with what is left of its turn. Constant time per operation."""

    def __init__(self, weights: Mapping[str, int], quantum: int = QUANTUM) -> None:
        """weights: shares of the tenants that have another than 1."""
        self._weights = weights
        self._quantum = quantum
        self._left: OrderedDict[str, int] = OrderedDict()

    def __iter__(self) -> Iterator[str]:
        """Who has the turn, then who comes after."""
        return iter(self._left)

    def __len__(self) -> int:
        return len(self._left)

    def join(self, tenant: str) -> None:
        """Line up behind the others, unless in the ring already."""
        if tenant not in self._left:
            self._left[tenant] = self._whole(tenant)

    def leave(self, tenant: str) -> None:
        """Give up the turn and what is left of it: nothing is saved up while idle."""
        self._left.pop(tenant, None)

    def left(self, tenant: str) -> int:
        """Tokens left of its present or next turn, at least 1."""
        return self._left[tenant]

    def use(self, tenant: str, num_tokens: int) -> bool:
        """Use tokens of a turn, at most those left. True if that ends it: the next one's begins."""
        self._left[tenant] -= num_tokens
        if self._left[tenant] > 0:
            return False
        self._left[tenant] = self._whole(tenant)
        self._left.move_to_end(tenant)
        return True

    def _whole(self, tenant: str) -> int:
        return self._quantum * self._weights.get(tenant, 1)
