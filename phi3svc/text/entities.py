"""From labelled tokens to entities, by the aggregation strategies of transformers' pipelines.

"none" leaves every token by itself; "simple" joins neighbours of one label. "first", "average" and
"max" give each word one label before they join: that of its first token, of the mean of its tokens'
scores, or of the token with the highest score.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from phi3svc.errors import InvalidRequest
from phi3svc.text.probabilities import softmax
from phi3svc.text.tokenizer import Span

OUTSIDE = "O"


@dataclass(frozen=True)
class ScoredToken:
    """Characters [start, end) of a text and the probability of each label there, [C].

    index: the token's place among all of the text; is_subword: it goes on with the word of the
    token before it.
    """

    index: int
    scores: Sequence[float]
    start: int
    end: int
    is_subword: bool


@dataclass(frozen=True)
class Entity:
    """Characters [start, end) of a text.

    label: without `B-` or `I-` unless the strategy is "none"; score: the mean of its words; words:
    for each of them its tokens, in the list that was aggregated. Where words do not matter, every
    token is one.
    """

    label: str
    score: float
    start: int
    end: int
    words: tuple[range, ...]


def score_tokens(
    text: str,
    token_ids: Sequence[int],
    spans: Sequence[Span | None],
    rows: Sequence[Sequence[float]],
    unk_token_id: int | None = None,
) -> list[ScoredToken]:
    """The tokens of `text` with their raw scores `rows`, [T][C], made probabilities.

    Tokens without a span, which the tokenizer added, are left out. A word begins where there is a
    blank just before or at the beginning of a token, and at an unknown token: transformers' rule
    for tokenizers that do not mark what continues a word.
    """
    tokens = []
    for index, (token_id, span, scores) in enumerate(zip(token_ids, spans, rows, strict=True)):
        if span is not None:
            start, end = span
            is_subword = (
                token_id != unk_token_id and start > 0 and " " not in text[start - 1 : start + 1]
            )
            tokens.append(ScoredToken(index, softmax(scores), start, end, is_subword))
    return tokens


def first(rows: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Label and score of a word by its first token. rows: its tokens' scores, [T][C]."""
    return _best(rows[0])


def average(rows: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Label and score of a word by the mean of its tokens. rows: their scores, [T][C]."""
    return _best(array("f", (math.fsum(column) / len(rows) for column in zip(*rows, strict=True))))


def largest(rows: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Label and score of a word by its surest token, the first of them. rows: scores, [T][C]."""
    return _best(max(rows, key=max))


Pick = Callable[[Sequence[Sequence[float]]], tuple[int, float]]
# How a word comes to its label, by strategy.
STRATEGIES: Mapping[str, Pick] = {
    "none": first,
    "simple": first,
    "first": first,
    "average": average,
    "max": largest,
}


def check_strategy(name: str) -> None:
    """InvalidRequest unless it is one of `STRATEGIES`."""
    if name not in STRATEGIES:
        raise InvalidRequest.of(
            "aggregation_strategy", f"{name!r}, must be one of {', '.join(STRATEGIES)}"
        )


def aggregate(
    tokens: Sequence[ScoredToken],
    labels: Sequence[str],
    strategy: str = "simple",
    ignore_labels: Collection[str] = (OUTSIDE,),
) -> list[Entity]:
    """Entities in order, from every token of a text in order.

    labels: the name of each; strategy: one of `STRATEGIES`; ignore_labels: entities of these are
    left out. Neighbours of the same label make one entity, unless the second begins its own with
    `B-`; a label without prefix continues.
    """
    pick = STRATEGIES[strategy]
    knows_words = strategy not in ("none", "simple")
    entities = []
    for word in _words(tokens) if knows_words else _ones(len(tokens)):
        label_id, score = pick([tokens[i].scores for i in word])
        start, end = tokens[word[0]].start, tokens[word[-1]].end
        entities.append(Entity(labels[label_id], score, start, end, (word,)))
    if strategy != "none":
        entities = [_join(group) for group in _neighbours(entities)]
    return [entity for entity in entities if entity.label not in ignore_labels]


def _best(scores: Sequence[float]) -> tuple[int, float]:
    label_id = max(range(len(scores)), key=scores.__getitem__)
    return label_id, scores[label_id]


def _ones(num_tokens: int) -> list[range]:
    return [range(i, i + 1) for i in range(num_tokens)]


def _words(tokens: Sequence[ScoredToken]) -> list[range]:
    """Each word's tokens."""
    begins = [i for i, token in enumerate(tokens) if i == 0 or not token.is_subword]
    return [range(i, j) for i, j in pairwise([*begins, len(tokens)])]


def _neighbours(entities: Iterable[Entity]) -> list[list[Entity]]:
    groups: list[list[Entity]] = []
    for entity in entities:
        begins, name = _split(entity.label)
        if groups and not begins and _split(groups[-1][-1].label)[1] == name:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return groups


def _split(label: str) -> tuple[bool, str]:
    """Whether the label begins an entity, and what of."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _join(group: list[Entity]) -> Entity:
    score = math.fsum(entity.score for entity in group) / len(group)
    # Whatever stands before the first dash goes, as in transformers: E- and S- of other schemes.
    label = group[0].label.split("-", 1)[-1]
    words = tuple(word for entity in group for word in entity.words)
    return Entity(label, score, group[0].start, group[-1].end, words)
