"""The almanac's facts as questions in many phrasings, each with its one right answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from phi3svc.embedded.training.almanac import (
    ANIMALS,
    DISHES,
    MONTHS,
    PLANETS,
    PLANTS,
    RECORDS,
    SKY,
    WEATHER,
    Plant,
)
from phi3svc.embedded.training.phrasings import ABOUT, FOLLOW_UPS, QUESTIONS


@dataclass(frozen=True)
class Fact:
    """One thing worth asking. slots fill the question frames of `attribute`."""

    topic: str
    subject: str
    attribute: str
    answer: str
    slots: dict[str, str] = field(hash=False, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """Names the fact among all."""
        return (self.subject, self.attribute)

    def questions(self) -> list[str]:
        """Every phrasing that stands on its own."""
        return [self._ask(frame) for frame in QUESTIONS[self.attribute]]

    def follow_ups(self) -> list[str]:
        """Phrasings that need the turn before, which was about the same subject."""
        return [self._ask(frame) for frame in FOLLOW_UPS.get(self.attribute, ())]

    def shifts(self) -> list[str]:
        """Phrasings that ask the last question again, about this subject."""
        again = self.slots.get("again", self.slots["x"])
        return [frame.format(x=again) for frame in ABOUT]

    def _ask(self, frame: str) -> str:
        return frame.format_map(self.slots | {"do_up": capitalized(self.slots.get("do", "do"))})


def capitalized(text: str) -> str:
    """`text` with its first letter in upper case."""
    return text[0].upper() + text[1:]


def join(items: list[str]) -> str:
    """A list in words: "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def article(noun: str) -> str:
    """`noun` with a or an."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun: str) -> str:
    """`noun` in the plural."""
    irregular = {"wolf": "wolves", "mouse": "mice", "deer": "deer", "sheep": "sheep"}
    irregular["goose"] = "geese"
    ending = "es" if noun.endswith(("x", "ch", "sh")) else "s"
    return irregular.get(noun, noun + ending)


def _plant_facts(plant: Plant) -> list[Fact]:
    name, many = plant.name, plant.is_plural
    top = capitalized(name)
    them, they, s = ("them", "they", "") if many else ("it", "it", "s")
    kind = plant.kind if many else article(plant.kind)
    slots = {"x": name, "do": "do" if many else "does", "them": them, "they": they, "s": s}
    slots |= {"is": "are" if many else "is", "grow": f"grow{s}"}
    answers = {
        "sow": f"Sow {name} in {plant.sow}. You can harvest {them} in {plant.harvest}.",
        "harvest": f"You can harvest {name} in {plant.harvest}.",
        "light": f"{top} like{s} {plant.light}.",
        "water": f"Water {name} {plant.water}.",
        "soil": f"{top} grow{s} best in {plant.soil}.",
        "neighbour": f"{top} grow{s} well next to {plant.neighbour}.",
        "about": (
            f"{top} {slots['is']} {kind}. Sow {them} in {plant.sow} and harvest {them} in "
            f"{plant.harvest}. {capitalized(they)} like{s} {plant.light} and {plant.soil}, and you "
            f"should water {them} {plant.water}. A good neighbour: {plant.neighbour}."
        ),
    }
    return [Fact("plant", name, key, answer, slots) for key, answer in answers.items()]


def _animal_facts() -> list[Fact]:
    facts = []
    for animal in ANIMALS:
        name, a_name = animal.name, article(animal.name)
        top = capitalized(a_name)
        slots = {"x": a_name, "bare": name, "is": "is", "they": "it", "them": "it"}
        slots["many"] = plural(name)
        answers = {
            "young": f"A baby {name} is called {animal.young}.",
            "home": f"{top} lives {animal.home}.",
            "food": f"{top} eats {animal.food}.",
            "sound": f"{top} {animal.sound}.",
            "animal": (
                f"{top} lives {animal.home} and eats {animal.food}. It {animal.sound}, and its "
                f"baby is called {animal.young}."
            ),
        }
        facts += [Fact("animal", name, key, answer, slots) for key, answer in answers.items()]
    return facts


def _planet_facts() -> list[Fact]:
    facts = []
    for planet in PLANETS:
        name = planet.name
        slots = {"x": name, "is": "is", "they": "it", "them": "it"}
        answers = {
            "place": f"{name} is the {planet.place} planet from the sun.",
            "moons": f"{name} has {planet.moons}.",
            "year": f"A year on {name} lasts {planet.year}.",
            "look": f"{name} is {planet.look}.",
            "planet": (
                f"{name} is the {planet.place} planet from the sun. It is {planet.look}, and it "
                f"has {planet.moons}. Its year lasts {planet.year}."
            ),
        }
        facts += [Fact("planet", name, key, answer, slots) for key, answer in answers.items()]
    return facts


def _dish_facts() -> list[Fact]:
    facts = []
    for dish in DISHES:
        name, verb = dish.name, dish.verb
        slots = {"x": name, "verb": verb, "do": "do" if name.endswith("s") else "does"}
        slots |= {"go": "go" if name.endswith("s") else "goes", "them": "them", "they": "they"}
        if not name.endswith("s"):
            slots |= {"them": "it", "they": "it"}
        slots["is"] = "are" if name.endswith("s") else "is"
        top = capitalized(name)
        answers = {
            "cook": f"{capitalized(verb)} {name} for {dish.time}.",
            "pair": f"{top} {slots['go']} well with {dish.friend}.",
            "dish": (
                f"{capitalized(verb)} {name} for {dish.time}. {top} {slots['go']} well with "
                f"{dish.friend}."
            ),
        }
        facts += [Fact("dish", name, key, answer, slots) for key, answer in answers.items()]
    return facts


def _weather_facts() -> list[Fact]:
    return [
        Fact("weather", name, "weather", f"{capitalized(name)} is {text}.", {"x": name})
        for name, text in (WEATHER | SKY).items()
    ]


def _record_facts() -> list[Fact]:
    return [
        Fact(
            "record",
            word,
            "record",
            f"The {word} planet is {planet}.",
            {"x": word, "again": f"the {word}"},
        )
        for word, planet in RECORDS.items()
    ]


def _month_facts() -> list[Fact]:
    facts = []
    for month in MONTHS:
        sow = [plant.name for plant in PLANTS if plant.sow == month][:4]
        harvest = [plant.name for plant in PLANTS if plant.harvest == month][:4]
        slots = {"x": month}
        to_sow = (
            f"In {month} you can sow {join(sow)}."
            if sow
            else f"In {month} there is nothing to sow."
        )
        to_harvest = (
            f"In {month} you can harvest {join(harvest)}."
            if harvest
            else f"In {month} there is nothing to harvest."
        )
        facts.append(Fact("month", month, "month_sow", to_sow, slots))
        facts.append(Fact("month", month, "month_harvest", to_harvest, slots))
        facts.append(Fact("month", month, "month", f"{to_sow} {to_harvest}", slots))
    return facts


FACTS = [
    *(fact for plant in PLANTS for fact in _plant_facts(plant)),
    *_animal_facts(),
    *_planet_facts(),
    *_dish_facts(),
    *_weather_facts(),
    *_record_facts(),
    *_month_facts(),
]
