"""Short animal stories from a small grammar, and a parser that says whether a text is one."""

from __future__ import annotations

import random
import re

from phi3svc.embedded.training.almanac import ANIMALS
from phi3svc.embedded.training.split import is_held_out
from phi3svc.embedded.training.turns import Turn

HEROES = [animal.name for animal in ANIMALS]
_ADJECTIVES = (
    "little young clever old brave shy kind lazy hungry curious proud gentle merry".split()
)
_PLACES = [
    "in a dark forest",
    "by a silver lake",
    "under an old oak",
    "on a green hill",
    "near a small village",
    "in a quiet garden",
    "behind the mill",
    "at the edge of the sea",
]
_TIMES = [
    "One sunny morning",
    "One cold night",
    "One day in spring",
    "On a rainy evening",
    "One windy day",
    "Early one day",
]
_FINDS = [
    "a golden key",
    "a red apple",
    "a lost letter",
    "a shiny coin",
    "a tiny boat",
    "a broken lantern",
    "a jar of honey",
    "a magic seed",
    "an empty nest",
    "a silver bell",
]
_ASKS = [
    "May I have it?",
    "Will you share it with me?",
    "What will you do with it?",
    "Can we look after it together?",
    "Where did you find it?",
]
_DEEDS = [
    "They shared it like good friends",
    "They carried it home together",
    "They gave it back to its owner",
    "They hid it under a stone",
    "They showed it to everyone they knew",
    "They took turns to guard it",
]
_MIDDLES = [
    "The wind began to sing in the trees.",
    "The moon came up and made the path bright.",
    "Rain began to fall, but nobody minded.",
    "A bird sang a song about the stars.",
    "They talked until the sun went down.",
    "They walked past the river and over the bridge.",
    "The grass smelled sweet and the air was warm.",
    "Far away, a bell began to ring.",
]
_ENDS = [
    "and from that day on they were never lonely again.",
    "and they lived happily ever after.",
    "and that night they slept well.",
    "and they laughed until the stars came out.",
    "and everyone in the village told the story for years.",
]

_REQUESTS = [
    "Tell me a story about {a}.",
    "Can you tell me a story about {a}?",
    "I want to hear a story about {a}.",
    "Please tell me a story about {a}.",
    "Write a story about {a}.",
    "Tell a story about {a}.",
    "Do you know a story about {a}?",
    "A story about {a}, please.",
]
_LONG_REQUESTS = [
    "Tell me a long story about {a}.",
    "Can you tell me a long story about {a}?",
    "Write a long story about {a}.",
    "I want to hear a long story about {a}.",
]
_ANY_REQUESTS = [
    "Tell me a story.",
    "Can you tell me a story?",
    "I want to hear a story.",
    "Do you know a story?",
    "Tell me a short story.",
]


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def story(rng: random.Random, hero: str, friend: str, num_middles: int) -> str:
    """A story of five sentences and `num_middles` more."""
    adjective = rng.choice(_ADJECTIVES)
    opening = (
        f"Once upon a time there was {_a(adjective)} {hero} who lived {rng.choice(_PLACES)}. "
        f"{rng.choice(_TIMES)}, the {hero} found {rng.choice(_FINDS)}."
    )
    meeting = f'Then {_a(friend)} came along and said: "{rng.choice(_ASKS)}"'
    middles = rng.sample(_MIDDLES, num_middles)
    ending = f"{rng.choice(_DEEDS)}, {rng.choice(_ENDS)}"
    return " ".join([opening, meeting, *middles, ending])


def any_story(rng: random.Random) -> str:
    """A story about any two animals, short or long."""
    hero, friend = rng.sample(HEROES, 2)
    return story(rng, hero, friend, rng.choice((0, 1, 1, 2, 4, 5)))


def _one_of(options: list[str]) -> str:
    return "(?:" + "|".join(map(re.escape, options)) + ")"


_HERO = "[a-z]+"
_STORY = re.compile(
    rf"Once upon a time there was an? {_one_of(_ADJECTIVES)} (?P<hero>{_HERO}) who lived "
    rf"{_one_of(_PLACES)}\. {_one_of(_TIMES)}, the (?P=hero) found {_one_of(_FINDS)}\. "
    rf"Then an? (?P<friend>{_HERO}) came along and said: \"{_one_of(_ASKS)}\""
    rf"(?P<middles>(?: {_one_of(_MIDDLES)})*) {_one_of(_DEEDS)}, {_one_of(_ENDS)}"
)


def parses(text: str, hero: str | None = None, friend: str | None = None) -> bool:
    """Whether the grammar derives `text`, with that hero and friend where they are given."""
    match = _STORY.fullmatch(text)
    if not match:
        return False
    return match["hero"] == (hero or match["hero"]) and match["friend"] == (
        friend or match["friend"]
    )


def story_turn(rng: random.Random, *, held_out: bool) -> Turn:
    """A request for a story, with no, one or two animals named, and at times for a long one."""
    while True:
        hero, friend = rng.sample(HEROES, 2)
        draw = rng.random()
        num_middles = rng.choice((0, 1))
        wanted: tuple[str | None, str | None]
        if draw < 0.15:
            question, wanted = rng.choice(_ANY_REQUESTS), (None, None)
        elif draw < 0.55:
            question, wanted = rng.choice(_REQUESTS).format(a=_a(hero)), (hero, None)
        elif draw < 0.8:
            both = f"{_a(hero)} and {_a(friend)}"
            question, wanted = rng.choice(_REQUESTS).format(a=both), (hero, friend)
        else:
            num_middles = rng.choice((4, 5, 6))
            question, wanted = rng.choice(_LONG_REQUESTS).format(a=_a(hero)), (hero, None)
        if draw < 0.15 or is_held_out("story", question) == held_out:
            break
    text = story(rng, hero, friend, num_middles)
    return Turn("story", question, text, lambda answer: parses(answer, *wanted))
