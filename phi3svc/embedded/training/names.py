"""Names of people, organisations and places, drawn from lists or made from syllables."""

from __future__ import annotations

import random

from phi3svc.embedded.training import name_lists as lists
from phi3svc.embedded.training.split import is_held_out

_SYLLABLES = [
    onset + vowel + coda
    for onset in "b bl br d dr f g gr h j k kr l m n p r s sch st t tr v w z".split()
    for vowel in "a e i o u ei ou".split()
    for coda in ("", "l", "m", "n", "r", "s", "nd", "rt", "ck", "ng")
]


class NameMaker:
    """Draws names from one side of the split; a held-out name never occurs in training."""

    def __init__(self, rng: random.Random, *, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out

    def _unseen(self, kind: str, starts: list[str], ends: list[str], joint: str = "") -> str:
        """A compound from our side of the split."""
        while True:
            name = self.rng.choice(starts) + joint + self.rng.choice(ends)
            if is_held_out(kind, name) == self.held_out:
                return name

    def _foreign(self) -> str:
        """A word of free syllables, so that a name need not look like any that was seen."""
        return self._unseen("foreign", _SYLLABLES, _SYLLABLES).capitalize()

    def last_name(self) -> str:
        """A surname, listed or made up."""
        draw = self.rng.random()
        if draw < 0.3:
            return self._foreign()
        if draw < 0.6:
            return self._unseen("last", lists.PERSON_STARTS, lists.PERSON_ENDS)
        return self._unseen("last", lists.LAST_NAMES, [""])

    def first_name(self) -> str:
        """A given name; a reader knows those by heart, so none is held out."""
        return self.rng.choice(lists.FIRST_NAMES)

    def person(self) -> str:
        """A given name, mostly with a surname, at times with an initial."""
        draw = self.rng.random()
        if draw < 0.3:
            return self.first_name()
        initial = f" {self.rng.choice('ABCDEFGHJKLMNPRSTW')}." if draw > 0.93 else ""
        return f"{self.first_name()}{initial} {self.last_name()}"

    def place(self, *, is_plain: bool) -> str:
        """A city or country, none held out, or a made-up town, lake or mountain.

        is_plain: the context says that it is a place, so that it may be any word.
        """
        draw = self.rng.random()
        if is_plain and self.rng.random() < 0.15:
            return self._foreign()
        if draw < 0.3:
            return self.rng.choice(lists.CITIES)
        if draw < 0.5:
            return self.rng.choice(lists.COUNTRIES)
        town = self._unseen("place", lists.PLACE_STARTS, lists.PLACE_ENDS)
        return town if draw < 0.9 else f"{self.rng.choice(lists.WATERS)} {town}"

    def company(self, *, is_plain: bool) -> str:
        """A well-known organisation, none held out, or a made-up company or a university.

        is_plain: the context says that it is an organisation, so that it may be any word.
        """
        draw = self.rng.random()
        if is_plain and self.rng.random() < 0.15:
            kind = f" {self.rng.choice(lists.COMPANY_KIND)}" if draw < 0.5 else ""
            return self._foreign() + kind
        if draw < 0.2:
            return self.rng.choice(lists.KNOWN_COMPANIES)
        if draw < 0.28:
            return f"the University of {self.rng.choice(lists.CITIES)}"
        if draw < 0.5:
            return self._unseen("company", lists.COMPANY_STARTS, lists.COMPANY_ENDS)
        if draw < 0.6:
            blend = self._unseen("company", lists.COMPANY_STARTS, lists.COMPANY_ENDS)
            return f"{blend} {self.rng.choice(lists.COMPANY_KIND)}"
        name = self._unseen("company", lists.COMPANY_FIRST, lists.COMPANY_KIND, " ")
        return name if draw < 0.9 else f"{name} {self.rng.choice(lists.SUFFIXES)}"
