"""Product, service and travel reviews with a sentiment, written by a grammar.

Labels follow the verdict a reader takes away: of two contrasting clauses the main one counts,
negation turns a word round, and plain facts or an "it was okay" are neutral.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from phi3svc.embedded.training import frames_sentiment as frames
from phi3svc.embedded.training import words_sentiment as words
from phi3svc.embedded.training.split import is_held_out

LABELS = ("negative", "neutral", "positive")
NEGATIVE, NEUTRAL, POSITIVE = range(3)

# Written after a clause at whose end a reader knows the label; `_take_marks` removes them.
_MARKS = ("\ue000", "\ue001", "\ue002")


@dataclass(frozen=True)
class Review:
    """A text and the index of its label.

    prefixes: (length in characters, label) of beginnings that would be reviews by themselves.
    """

    text: str
    label: int
    prefixes: tuple[tuple[int, int], ...] = ()


class ReviewGrammar:
    """Draws reviews. `held_out` chooses the side of the split that every clause comes from."""

    def __init__(self, rng: random.Random, *, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out

    def review(self) -> Review:
        """One review of one to about eight clauses."""
        label = self.rng.randrange(3)
        draw = self.rng.random()
        if draw < 0.42:
            sentences = [self._sentence(self._clause(label))]
        elif draw < 0.78:
            sentences = [self._contrast(label)]
        else:
            sentences = self._several(label)
        text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", " ".join(sentences))
        if self.rng.random() < 0.15:
            text = text.lower()
        if self.rng.random() < 0.15:
            text = text.rstrip(".!")
        return _take_marks(text, label)

    def _several(self, label: int) -> list[str]:
        num = self.rng.choice((2, 2, 3, 3, 4, 5, 6, 7))
        sentences = [
            self._contrast(label)
            if self.rng.random() < 0.2
            else self._sentence(self._clause(label))
            for _ in range(num)
        ]
        for _ in range(self.rng.randrange(3)):
            place = self.rng.randrange(len(sentences) + 1)
            sentences.insert(place, self._sentence(self._fill(self.rng.choice(frames.FACTS))))
        if label != NEUTRAL and self.rng.random() < 0.15:
            first = self._clause(POSITIVE + NEGATIVE - label)
            sentences.insert(0, "At first, " + first + ".")
            sentences.append(self.rng.choice(frames.IN_THE_END) + self._clause(label) + ".")
        return sentences

    def _contrast(self, label: int) -> str:
        if label == NEUTRAL:
            good, bad = self._clause(POSITIVE), self._clause(NEGATIVE)
            first, second = self.rng.sample((good, bad), 2)
            frame = self.rng.choice(frames.BALANCED)
            if not frame.startswith("{first}"):
                first = _unmarked(first)
            second = _unmarked(second)
            return self._sentence(frame.format(first=first, second=second))
        other = self.rng.choice((POSITIVE + NEGATIVE - label, NEUTRAL, POSITIVE + NEGATIVE - label))
        main, side = self._clause(label), self._clause(other)
        frame = self.rng.choice(frames.CONTRASTS)
        if not frame.startswith("{side}"):
            side = _unmarked(side)
        return self._sentence(frame.format(main=main, side=side))

    def _clause(self, label: int) -> str:
        """A clause of that polarity whose combination of words is on our side of the split."""
        trained, held_out = frames.CLAUSES[label]
        while True:
            use_new_frame = self.held_out and self.rng.random() < 0.5
            frame = self.rng.choice(held_out if use_new_frame else trained)
            clause = self._fill(frame)
            if use_new_frame or is_held_out(clause) == self.held_out:
                return clause + _MARKS[label]

    def _fill(self, frame: str) -> str:
        aspect, is_plural = self.rng.choice(words.ASPECTS)
        slots = {
            "A": aspect,
            "be": "were" if is_plural else "was",
            "is": "are" if is_plural else "is",
            "thing": self.rng.choice(words.THINGS),
        }
        for slot, options in words.SLOTS.items():
            slots[slot] = self.rng.choice(options)
        return frame.format_map(slots)

    def _sentence(self, clause: str) -> str:
        opener = self.rng.choice(frames.OPENERS) if self.rng.random() < 0.2 else ""
        text = opener + clause
        end = "!" if self.rng.random() < 0.12 else "."
        return text[0].upper() + text[1:] + end


def _unmarked(clause: str) -> str:
    return clause.rstrip("".join(_MARKS))


def _take_marks(text: str, label: int) -> Review:
    plain, prefixes = "", list[tuple[int, int]]()
    for char in text:
        if char in _MARKS:
            prefixes.append((len(plain), _MARKS.index(char)))
        else:
            plain += char
    return Review(plain, label, tuple(prefixes))


def reviews(seed: int, *, held_out: bool = False) -> Iterator[Review]:
    """Endless reviews; the same seed gives the same ones."""
    grammar = ReviewGrammar(random.Random(seed), held_out=held_out)
    while True:
        yield grammar.review()


def held_out_reviews(num: int, seed: int = 7) -> list[Review]:
    """`num` reviews in which every clause, or its whole frame, was never trained on."""
    stream = reviews(seed, held_out=True)
    return [next(stream) for _ in range(num)]
