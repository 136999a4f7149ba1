"""Greetings, thanks, jokes, and the polite way to say "I do not know"."""

from __future__ import annotations

import random

from phi3svc.embedded.training import talk_lines
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
