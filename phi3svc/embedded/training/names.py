"""Names of people, organisations and places, drawn from lists or made from syllables."""

from __future__ import annotations

import random

from phi3svc.embedded.training import name_lists as lists
from phi3svc.embedded.training.split import is_held_out


class NameMaker:
    """Draws names from one side of the split; a held-out name never occurs in training."""

    def __init__(self, rng: random.Random, *, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out

    def _ours(self, kind: str, name: str) -> bool:
        return is_held_out(kind, name) == self.held_out

    def last_name(self) -> str:
        """A surname, listed or made up."""
        while True:
            if self.rng.random() < 0.4:
                name = self.rng.choice(lists.PERSON_STARTS) + self.rng.choice(lists.PERSON_ENDS)
            else:
                name = self.rng.choice(lists.LAST_NAMES)
            if self._ours("last", name):
                return name

    def first_name(self) -> str:
        """A given name; all of them are trained on, since a reader knows given names by heart."""
        return self.rng.choice(lists.FIRST_NAMES)

    def person(self) -> str:
        """A given name, mostly with a surname, at times with an initial."""
        draw = self.rng.random()
        if draw < 0.3:
            return self.first_name()
        initial = f" {self.rng.choice('ABCDEFGHJKLMNPRSTW')}." if draw > 0.93 else ""
        while True:
            name = f"{self.first_name()}{initial} {self.last_name()}"
            if self._ours("person", name) or self.held_out:
                return name

    def place(self) -> str:
        """A city, country, or a made-up town, lake or mountain."""
        while True:
            draw = self.rng.random()
            made_up = self.rng.choice(lists.PLACE_STARTS) + self.rng.choice(lists.PLACE_ENDS)
            if draw < 0.3:
                name = self.rng.choice(lists.CITIES)
            elif draw < 0.5:
                name = self.rng.choice(lists.COUNTRIES)
            elif draw < 0.9:
                name = made_up
            else:
                name = f"{self.rng.choice(lists.WATERS)} {made_up}"
            if self._ours("place", name):
                return name

    def company(self) -> str:
        """A listed organisation or a made-up company, bank, university or ministry."""
        while True:
            draw = self.rng.random()
            blend = self.rng.choice(lists.COMPANY_STARTS) + self.rng.choice(lists.COMPANY_ENDS)
            first, kind = self.rng.choice(lists.COMPANY_FIRST), self.rng.choice(lists.COMPANY_KIND)
            if draw < 0.2:
                name = self.rng.choice(lists.KNOWN_COMPANIES)
            elif draw < 0.4:
                name = blend
            elif draw < 0.55:
                name = f"{blend} {kind}"
            elif draw < 0.85:
                name = f"{first} {kind}"
            elif draw < 0.93:
                name = f"the University of {self.rng.choice(lists.CITIES)}"
            else:
                name = f"{first} {kind} {self.rng.choice(lists.SUFFIXES)}"
            if self._ours("company", name):
                return name
