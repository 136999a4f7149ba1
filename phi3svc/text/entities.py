"""Joins labelled tokens into entities, as transformers' pipelines do with strategy "simple"."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

OUTSIDE = "O"


@dataclass(frozen=True)
class TokenLabel:
    """The label of characters [start, end) of a text, in the model's words. score: probability."""

    label: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Entity:
    """Characters [start, end) of a text. label: without `B-` or `I-`; score: the tokens' mean."""

    label: str
    score: float
    start: int
    end: int


def join_entities(tokens: Iterable[TokenLabel]) -> list[Entity]:
    """Entities in order, from every token of a text in order.

    Neighbours of the same label make one entity, unless the second begins its own with `B-`; a
    label without prefix continues. What is labelled `O` is left out.
    """
    groups: list[list[TokenLabel]] = []
    for token in tokens:
        begins, name = _split(token.label)
        if groups and not begins and _split(groups[-1][-1].label)[1] == name:
            groups[-1].append(token)
        else:
            groups.append([token])
    entities = [_join(group) for group in groups]
    return [entity for entity in entities if entity.label != OUTSIDE]


def _split(label: str) -> tuple[bool, str]:
    """Whether the label begins an entity, and what of."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _join(group: list[TokenLabel]) -> Entity:
    score = math.fsum(token.score for token in group) / len(group)
    # Whatever stands before the first dash goes, as in transformers: E- and S- of other schemes.
    label = group[0].label.split("-", 1)[-1]
    return Entity(label, score, group[0].start, group[-1].end)
