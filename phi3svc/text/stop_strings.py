"""Finds stop strings in text that arrives in pieces: an Aho-Corasick automaton."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class _Node:
    """A prefix of some stop string. depth: its length in characters."""

    depth: int
    children: dict[str, _Node] = field(default_factory=dict)
    fallback: _Node | None = None  # the longest proper suffix that is a prefix too; None: the root
    stop_string: str | None = None  # the longest stop string that ends here


class StopStrings:
    """What to look for. Building costs the strings' length, looking a constant per character."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.root = _Node(0)
        for string in filter(None, strings):
            node = self.root
            for char in string:
                node = node.children.setdefault(char, _Node(node.depth + 1))
            node.stop_string = string
        queue = deque([self.root])
        while queue:
            node = queue.popleft()
            for char, child in node.children.items():
                if node is not self.root:
                    child.fallback = self.step(node.fallback or self.root, char)
                    child.stop_string = child.stop_string or child.fallback.stop_string
                queue.append(child)

    def __bool__(self) -> bool:
        """False if there is nothing to look for."""
        return bool(self.root.children)

    def step(self, node: _Node, char: str) -> _Node:
        """The longest prefix of a stop string that the text ends with after `char`."""
        while char not in node.children:
            if node is self.root:
                return node
            node = node.fallback or self.root
        return node.children[char]


class StopMatcher:
    """Lets text through up to the first stop string.

    The first is the one that ends first in the text; of several that end at the same character,
    the longest. How the text was cut into pieces makes no difference.
    """

    def __init__(self, stop_strings: StopStrings) -> None:
        self._stop_strings = stop_strings
        self._node = self._hoped_node = stop_strings.root
        self._held = ""  # may be the beginning of a stop string: as long as the node is deep
        self._hoped: list[str] = []

    def push(self, text: str) -> tuple[str, str | None]:
        """Take text. Returns what can be let through, and the stop string if one is complete."""
        step = self._stop_strings.step
        node = self._node
        for i, char in enumerate(text):
            node = step(node, char)
            if node.stop_string is not None:
                passed = self._held + text[: i + 1]
                return passed[: len(passed) - len(node.stop_string)], node.stop_string
        self._node = self._hoped_node = node
        self._hoped.clear()
        passed = self._held + text
        cut = len(passed) - node.depth
        self._held = passed[cut:]
        return passed[:cut], None

    def hope(self, text: str) -> tuple[str, str | None]:
        """Look at text that may not stand. Nothing is let through unless a stop string is complete.

        It counts until the next `push`, which starts again where the last one ended.
        """
        step = self._stop_strings.step
        node = self._hoped_node
        for i, char in enumerate(text):
            node = step(node, char)
            if node.stop_string is not None:
                passed = self._held + "".join(self._hoped) + text[: i + 1]
                return passed[: len(passed) - len(node.stop_string)], node.stop_string
        self._hoped_node = node
        self._hoped.append(text)
        return "", None

    def finish(self) -> str:
        """Text still held back: no stop string will be completed any more."""
        held, self._held = self._held, ""
        return held
