"""News-like sentences with people, organisations, places and dates, and where they are."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from phi3svc.embedded.training import frames_entities as frames
from phi3svc.embedded.training.names import NameMaker

KINDS = ("PER", "ORG", "LOC", "DATE")
LABELS = ("O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI"))

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Span:
    """An entity: characters [start, end) of the text."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Passage:
    """A text and its entities in order."""

    text: str
    spans: tuple[Span, ...]


class PassageGrammar:
    """Draws passages. Held-out ones use unseen names and, half of the time, unseen frames."""

    def __init__(self, rng: random.Random, *, held_out: bool) -> None:
        self.rng = rng
        self.names = NameMaker(rng, held_out=held_out)
        self.held_out = held_out

    def passage(self) -> Passage:
        """One to six sentences."""
        num = self.rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 5, 6))
        text, spans = "", list[Span]()
        for _ in range(num):
            use_new_frame = self.held_out and self.rng.random() < 0.5
            frame = self.rng.choice(frames.HELD_OUT if use_new_frame else frames.TRAINED)
            text = self._append(text + " " if text else text, frame, spans)
        if self.rng.random() < 0.1:
            text = text.rstrip(".")
            spans = [Span(span.start, min(span.end, len(text)), span.kind) for span in spans]
        return Passage(text, tuple(spans))

    def _append(self, text: str, frame: str, spans: list[Span]) -> str:
        begin = len(text)
        place = 0
        for slot in _SLOT.finditer(frame):
            text += frame[place : slot.start()]
            place = slot.end()
            kind, value = self._value(slot[1], is_plain=slot.start() > 0)
            if kind and value.startswith("the "):
                text, value = text + "the ", value[4:]
            if kind:
                spans.append(Span(len(text), len(text) + len(value), kind))
            text += value
        text = (text + frame[place:]).replace("..", ".")
        return text[:begin] + text[begin].upper() + text[begin + 1 :]

    def _value(self, slot: str, *, is_plain: bool) -> tuple[str | None, str]:
        if slot == "PER":
            return "PER", self.names.person()
        if slot == "LAST":
            return "PER", self.names.last_name()
        if slot == "ORG":
            return "ORG", self.names.company(is_plain=is_plain)
        if slot == "LOC":
            return "LOC", self.names.place(is_plain=is_plain)
        if slot == "DATE":
            return "DATE", self._date()
        if slot == "YEAR":
            return "DATE", str(self.rng.randint(1900, 2035))
        if slot == "MONTH":
            year = f" {self.rng.randint(1950, 2035)}" if self.rng.random() < 0.5 else ""
            return "DATE", self.rng.choice(frames.MONTHS) + year
        if slot in ("PAST", "FUTURE"):
            return "DATE", self.rng.choice(getattr(frames, slot))
        if slot == "num":
            return None, str(self.rng.choice((*range(2, 20), 25, 40, 75, 100, 120, 300, 450, 1000)))
        return None, self.rng.choice(frames.FILLERS[slot])

    def _date(self) -> str:
        day, month = self.rng.randint(1, 31), self.rng.choice(frames.MONTHS)
        year = self.rng.randint(1950, 2035)
        number = frames.MONTHS.index(month) + 1
        ordinal = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}.get(day, "th")
        return self.rng.choice(
            (
                f"{day} {month} {year}",
                f"{day} {month}",
                f"{month} {day}",
                f"the {day}{ordinal} of {month}",
                f"{year}-{number:02d}-{day:02d}",
                f"{day:02d}/{number:02d}/{year}",
                f"{day}.{number}.{year}",
                self.rng.choice(frames.WEEKDAYS),
                self.rng.choice(frames.WEEKDAYS),
            )
        )


def passages(seed: int, *, held_out: bool = False) -> Iterator[Passage]:
    """Endless passages; the same seed gives the same ones."""
    grammar = PassageGrammar(random.Random(seed), held_out=held_out)
    while True:
        yield grammar.passage()


def held_out_passages(num: int, seed: int = 11) -> list[Passage]:
    """`num` passages whose compound names are unseen, half of them in unseen frames."""
    stream = passages(seed, held_out=True)
    return [next(stream) for _ in range(num)]


def label_tokens(passage: Passage, offsets: list[tuple[int, int]]) -> list[int]:
    """One label index per token, given each token's characters [start, end).

    A token belongs to the entity that its first character other than a space lies in; a token of
    nothing but a space belongs to an entity that it lies within.
    """
    labels, begun = [], set[int]()
    for start, end in offsets:
        while start < end and passage.text[start].isspace():
            start += 1
        is_blank = start == end
        label = 0
        for index, span in enumerate(passage.spans):
            first = span.start + is_blank
            if first <= start < span.end:
                prefix = "I" if index in begun else "B"
                begun.add(index)
                label = LABELS.index(f"{prefix}-{span.kind}")
        labels.append(label)
    return labels


def token_spans(labels: list[str], offsets: list[tuple[int, int]], text: str) -> set[Span]:
    """The entities that BIO labels spell, with surrounding space taken off."""
    spans = list[Span]()
    is_open = False
    for label, (start, end) in zip(labels, offsets, strict=True):
        kind = label[2:]
        if label == "O":
            is_open = False
        elif label[0] == "I" and is_open and spans[-1].kind == kind:
            spans[-1] = Span(spans[-1].start, end, kind)
        else:
            spans.append(Span(start, end, kind))
            is_open = True
    trimmed = set()
    for span in spans:
        piece = text[span.start : span.end]
        start = span.start + len(piece) - len(piece.lstrip())
        trimmed.add(Span(start, span.end - len(piece) + len(piece.rstrip()), span.kind))
    return trimmed
