"""What the assistant does rather than knows: repeating, counting, making lists."""

from __future__ import annotations

import random

from phi3svc.embedded.training.almanac import ANIMALS, PLANETS, PLANTS
from phi3svc.embedded.training.facts import FACTS
from phi3svc.embedded.training.split import is_held_out
from phi3svc.embedded.training.turns import Turn

_WORDS = sorted(
    {
        word.strip(".,")
        for fact in FACTS
        for word in (*fact.answer.split(), *fact.questions()[0].split())
    }
)
_STRANGERS = """café naïve déjà über straße piñata jalapeño résumé fjord zebra quartz jazz \U0001f33b \U0001f98a
    \U0001f41d \U0001f331 \u2600 \u2744 10° €5 100% x=3 a+b (yes) [no] Hi! Ok? one-two e.g. 42 1999 3.14 #1
    @home C++ gRPC Python Linux HTTP Phi-3""".split()
_REPEATS = [
    "Repeat after me: {x}",
    "Repeat this: {x}",
    "Please repeat: {x}",
    "Say this: {x}",
    "Copy this text: {x}",
    "Read this back to me: {x}",
    "Write down: {x}",
    "Echo: {x}",
]
_TWICE = ["Say this twice: {x}", "Repeat this twice: {x}", "Write this twice: {x}"]
_LISTS = ["Make a list of {x}.", "Make a list: {x}.", "Write a list of {x}.", "List these: {x}."]
_COUNTS = [
    "Count from {a} to {b}.",
    "Can you count from {a} to {b}?",
    "Please count from {a} to {b}.",
]
NUMBER_WORDS = ["two", "three", "four", "five"]


def _phrase(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.35:
        words = rng.choices(_WORDS, k=rng.randint(2, 12))
    elif draw < 0.5:
        words = rng.choices(_WORDS, k=rng.randint(1, 8))
        words[rng.randrange(len(words))] = rng.choice(_STRANGERS)
    elif draw < 0.65:
        words = [
            "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(2, 6)))
            for _ in range(rng.randint(1, 5))
        ]
    else:
        num = rng.choice((1, 1, 2, 3, 4))
        words = [fact.answer for fact in rng.sample(FACTS, num)]
    return " ".join(words)


def repeat(rng: random.Random, *, held_out: bool) -> Turn:
    """Say it again, once or twice. The phrase is drawn afresh, so a test phrase is a new one."""
    while True:
        phrase = _phrase(rng)
        if is_held_out("repeat", phrase) == held_out:
            break
    if rng.random() < 0.15 and len(phrase) < 80:
        return Turn("copy", rng.choice(_TWICE).format(x=phrase), f"{phrase} {phrase}")
    return Turn("copy", rng.choice(_REPEATS).format(x=phrase), phrase)


def make_list(rng: random.Random, *, held_out: bool) -> Turn:
    """Items in a row become lines."""
    pool = [plant.name for plant in PLANTS] + [f"{animal.name}s" for animal in ANIMALS[:4]]
    while True:
        items = rng.sample(pool, rng.randint(2, 6))
        if is_held_out("list", *items) == held_out:
            break
    joined = ", ".join(items[:-1]) + " and " + items[-1]
    question = rng.choice(_LISTS).format(x=joined)
    return Turn("copy", question, "\n".join(f"- {item}" for item in items))


def count(rng: random.Random, *, held_out: bool) -> Turn:
    """Numbers in order, up to twenty."""
    while True:
        first = rng.randint(1, 18)
        last = rng.randint(first + 1, min(20, first + 12))
        if is_held_out("count", first, last) == held_out:
            break
    answer = ", ".join(map(str, range(first, last + 1))) + "."
    return Turn("count", rng.choice(_COUNTS).format(a=first, b=last), answer)


_KINDS = {
    "vegetables": [plant.name for plant in PLANTS if plant.kind.startswith("vegetable")],
    "herbs": [plant.name for plant in PLANTS if plant.kind.startswith("herb")],
    "flowers": [plant.name for plant in PLANTS if plant.kind.startswith("flower")],
    "planets": [planet.name for planet in PLANETS],
    "animals": [animal.name for animal in ANIMALS],
}
_NAME_SOME = [
    "Name {n} {kind}.",
    "Tell me {n} {kind}.",
    "Give me {n} {kind}.",
    "Can you name {n} {kind}?",
    "List {n} {kind}.",
]


def name_some(rng: random.Random, *, held_out: bool) -> Turn:
    """That many members of a kind, in the almanac's order, so that none comes twice."""
    while True:
        kind, num, frame = rng.choice(list(_KINDS)), rng.randint(2, 5), rng.choice(_NAME_SOME)
        if is_held_out("name", kind, num, frame) == held_out:
            break
    members = _KINDS[kind]
    chosen = [members[place] for place in sorted(rng.sample(range(len(members)), num))]
    question = frame.format(n=NUMBER_WORDS[num - 2], kind=kind)
    answer = ", ".join(chosen[:-1]) + " and " + chosen[-1] + "."

    def is_right(text: str) -> bool:
        named = text.rstrip(".").replace(" and ", ", ").split(", ")
        lowered = {member.lower() for member in members}
        return len(set(named)) == num == len(named) and all(n.lower() in lowered for n in named)

    return Turn("list", question, answer[0].upper() + answer[1:], is_right)
