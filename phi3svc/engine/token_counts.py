"""Which tokens a sequence has seen, kept up token by token for the penalties."""

from __future__ import annotations

from array import array
from collections.abc import Iterable


class TokenCounts:
    """One entry for each different token, in order of first appearance.

    token_ids: the tokens. counts: how often the answer has each; 0 if only the prompt does.
    """

    def __init__(self, prompt_ids: Iterable[int] = ()) -> None:
        self.token_ids = array("i", dict.fromkeys(prompt_ids))
        self.counts = array("i", bytes(self.token_ids.itemsize * len(self.token_ids)))
        self._entry_of = {token_id: entry for entry, token_id in enumerate(self.token_ids)}

    def __len__(self) -> int:
        return len(self.token_ids)

    def add(self, token_id: int) -> None:
        """Count a token of the answer."""
        entry = self._entry_of.setdefault(token_id, len(self.token_ids))
        if entry == len(self.token_ids):
            self.token_ids.append(token_id)
            self.counts.append(0)
        self.counts[entry] += 1
