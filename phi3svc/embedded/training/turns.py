"""One question and what counts as a right answer to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A user's message and the assistant's answer as trained.

    kind: what is being asked, for scores. is_right: the judge of free answers (stories, lists);
    None means that the answer must be exactly `answer`.
    """

    kind: str
    question: str
    answer: str
    is_right: Callable[[str], bool] | None = None

    def accepts(self, answer: str) -> bool:
        """Whether `answer`, as decoded, is right."""
        answer = answer.strip()
        return self.is_right(answer) if self.is_right else answer == self.answer.strip()
