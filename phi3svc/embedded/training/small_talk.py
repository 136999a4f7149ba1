"""Greetings, thanks, names, jokes, and the polite way to say "I do not know"."""

from __future__ import annotations

import random

from phi3svc.embedded.training import talk_lines
from phi3svc.embedded.training.name_lists import FIRST_NAMES
from phi3svc.embedded.training.split import is_held_out
from phi3svc.embedded.training.turns import Turn

UNKNOWN = (
    "I am sorry, I do not know that. I only know about plants, animals, planets, cooking and the "
    "weather."
)


def small_talk(rng: random.Random, *, held_out: bool) -> Turn:
    """A greeting or the like. Held-out ones are known words in unseen surroundings."""
    questions, answer = rng.choice(talk_lines.TALK)
    return Turn("talk", rng.choice(questions), answer)


def _nonsense(rng: random.Random) -> str:
    parts = [
        rng.choice(talk_lines.SOUNDS) + rng.choice(talk_lines.VOWELS)
        for _ in range(rng.choice((1, 2)))
    ]
    return "".join(parts) + rng.choice(talk_lines.TAILS) + rng.choice(("s", "s", ""))


def unknown(rng: random.Random, *, held_out: bool) -> Turn:
    """A question outside the almanac; the same honest answer every time."""
    while True:
        if rng.random() < 0.6:
            frame = rng.choice(talk_lines.STRANGE)
            question = frame.format_map(
                {slot: rng.choice(words) for slot, words in talk_lines.STRANGE_SLOTS.items()}
            )
        else:
            name = rng.choice(talk_lines.UNKNOWN_PLANTS) if rng.random() < 0.4 else _nonsense(rng)
            question = rng.choice(talk_lines.UNKNOWN_FRAMES).format(x=name)
        if is_held_out("unknown", question) == held_out:
            return Turn("unknown", question, UNKNOWN)


def name_turns(rng: random.Random, *, held_out: bool) -> tuple[Turn, Turn]:
    """The user says a name; later asks for it."""
    while True:
        name = rng.choice(FIRST_NAMES) if rng.random() < 0.6 else _nonsense(rng).capitalize()
        if is_held_out("name", name) == held_out:
            break
    told = rng.choice(
        (
            "My name is {}.",
            "I am {}.",
            "Hi, I am {}.",
            "Hello, my name is {}.",
            "You can call me {}.",
            "I am called {}.",
        )
    )
    asked = rng.choice(
        (
            "What is my name?",
            "Do you know my name?",
            "Who am I?",
            "Do you remember my name?",
            "Can you tell me my name?",
        )
    )
    greeting = f"Nice to meet you, {name}! What would you like to know?"
    return (
        Turn("name", told.format(name), greeting),
        Turn("recall", asked, f"Your name is {name}."),
    )


def no_name(rng: random.Random) -> Turn:
    """The user asks for a name never given."""
    asked = rng.choice(
        ("What is my name?", "Do you know my name?", "Who am I?", "Can you tell me my name?")
    )
    return Turn("recall", asked, "You have not told me your name yet.")
