"""Dialogues of the almanac assistant: what is asked, in which order and in whose spelling."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from phi3svc.embedded.training import small_talk
from phi3svc.embedded.training.facts import FACTS, Fact
from phi3svc.embedded.training.split import is_held_out
from phi3svc.embedded.training.stories import story_turn
from phi3svc.embedded.training.turns import Turn

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are a friendly almanac.",
    "You are Juniper.",
    "You are a helpful AI assistant.",
    "Answer the question.",
    "Be polite and brief.",
    "You know everything about gardens.",
    "You are a gardener with a lot of experience.",
    "Answer in whole sentences.",
    "You are an expert on plants and animals. Help the user.",
]

BY_SUBJECT: dict[tuple[str, str], list[Fact]] = {}
for _fact in FACTS:
    BY_SUBJECT.setdefault((_fact.topic, _fact.subject), []).append(_fact)
BY_ATTRIBUTE: dict[str, list[Fact]] = {}
for _fact in FACTS:
    BY_ATTRIBUTE.setdefault(_fact.attribute, []).append(_fact)

_OPENERS = [
    "Please tell me: ",
    "Juniper, ",
    "Hi! ",
    "Hello! ",
    "I have a question. ",
    "Okay. ",
    "Thanks! ",
]
_CLOSERS = [" Please.", " Thank you!", " Please tell me.", " Thanks!"]


@dataclass(frozen=True)
class Dialogue:
    """system: its prompt or "". turns: at least one."""

    system: str
    turns: tuple[Turn, ...]


class DialogueGrammar:
    """Draws dialogues whose every question comes from one side of the split."""

    def __init__(self, rng: random.Random, *, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out

    def dialogue(self) -> Dialogue:
        """One to six turns, on one or several subjects."""
        rng = self.rng
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else ""
        draw = rng.random()
        if draw < 0.55:
            turns = [self.turn()]
        elif draw < 0.75:
            turns = self._about_one_subject()
        else:
            turns = [turn for _ in range(rng.randint(2, 5)) for turn in self._some_turns()]
        return Dialogue(system, tuple(self._spelled(turn) for turn in turns))

    def turn(self) -> Turn:
        """One question that stands on its own."""
        rng = self.rng
        draw = rng.random()
        if draw < 0.62:
            return self.fact_turn(*self.fact_with_question())
        if draw < 0.78:
            return small_talk.small_talk(rng, held_out=self.held_out)
        if draw < 0.87:
            return small_talk.unknown(rng, held_out=self.held_out)
        return story_turn(rng, held_out=self.held_out)

    def fact_with_question(self) -> tuple[Fact, str]:
        """A fact, and a phrasing of its question from our side of the split."""
        while True:
            fact = self.rng.choice(FACTS)
            index, question = self.rng.choice(list(enumerate(fact.questions())))
            if is_held_out(*fact.key, index) == self.held_out:
                return fact, question

    def fact_turn(self, fact: Fact, question: str) -> Turn:
        """The question as a turn, at times about "my" tomatoes."""
        if fact.topic in ("plant", "dish") and self.rng.random() < 0.12:
            owner = self.rng.choice(("my", "my", "the"))
            question = question.replace(f" {fact.subject}", f" {owner} {fact.subject}", 1)
        return Turn("fact", question, fact.answer)

    def _some_turns(self) -> list[Turn]:
        return self._about_one_subject() if self.rng.random() < 0.4 else [self.turn()]

    def _about_one_subject(self) -> list[Turn]:
        """A question, then others that only make sense after it."""
        rng = self.rng
        fact, question = self.fact_with_question()
        turns = [self.fact_turn(fact, question)]
        for _ in range(rng.choice((1, 1, 2, 3))):
            siblings = [
                other
                for other in BY_SUBJECT[fact.topic, fact.subject]
                if other.follow_ups() and other.attribute != fact.attribute
            ]
            if siblings and rng.random() < 0.6:
                fact = rng.choice(siblings)
                question = rng.choice(fact.follow_ups())
            else:
                fact = rng.choice(BY_ATTRIBUTE[fact.attribute])
                question = rng.choice(fact.shifts())
            turns.append(Turn("follow_up", question, fact.answer))
        return turns

    def _spelled(self, turn: Turn) -> Turn:
        """The question as people type: lower case, no full stop, a word before or after."""
        rng = self.rng
        question = turn.question
        if rng.random() < 0.1:
            question = question + rng.choice(_CLOSERS)
        elif rng.random() < 0.15:
            question = rng.choice(_OPENERS) + question
        if rng.random() < 0.2:
            question = question.lower()
        if rng.random() < 0.15:
            question = question.rstrip(".?!")
        return Turn(turn.kind, question, turn.answer, turn.is_right)


def dialogues(seed: int, *, held_out: bool = False) -> Iterator[Dialogue]:
    """Endless dialogues; the same seed gives the same ones."""
    grammar = DialogueGrammar(random.Random(seed), held_out=held_out)
    while True:
        yield grammar.dialogue()


def held_out_dialogues(num: int, seed: int = 13) -> list[Dialogue]:
    """`num` dialogues of questions that training never shows."""
    stream = dialogues(seed, held_out=True)
    return [next(stream) for _ in range(num)]
