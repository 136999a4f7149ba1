"""From raw scores of a classification head to labels, as transformers' pipelines do it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from phi3svc.config.model import Phi3Config
from phi3svc.text.entities import Entity, TokenLabel, join_entities
from phi3svc.text.tokenizer import Span
from phi3svc.v1 import classification_service_pb2


def to_classification(
    scores: Sequence[float], config: Phi3Config
) -> classification_service_pb2.Classification:
    """Every label with its probability, the best first. scores: [num_labels]."""
    found = zip(config.id2label, probabilities(scores, config), strict=True)
    return classification_service_pb2.Classification(
        labels=[
            classification_service_pb2.LabelScore(label=label, score=score)
            for label, score in sorted(found, key=lambda item: -item[1])
        ]
    )


def to_token_classification(
    text: str, spans: Sequence[Span | None], rows: Sequence[Sequence[float]], config: Phi3Config
) -> classification_service_pb2.TokenClassification:
    """The best label of each token, and entities. rows: [num_tokens][num_labels].

    Tokens that the tokenizer added, which have no span, are left out.
    """
    tokens = []
    for span, scores in zip(spans, rows, strict=True):
        if span is not None:
            best = max(range(len(scores)), key=scores.__getitem__)
            tokens.append(TokenLabel(config.id2label[best], softmax(scores)[best], *span))
    return classification_service_pb2.TokenClassification(
        tokens=[
            classification_service_pb2.TokenLabel(
                text=text[token.start : token.end],
                label=token.label,
                score=token.score,
                start=token.start,
                end=token.end,
            )
            for token in tokens
        ],
        entities=[_to_entity(text, entity) for entity in join_entities(tokens)],
    )


def _to_entity(text: str, entity: Entity) -> classification_service_pb2.Entity:
    # Tokens carry the blank before their word; a name does not begin with one.
    found = text[entity.start : entity.end]
    start = entity.start + len(found) - len(found.lstrip())
    found = found.strip()
    return classification_service_pb2.Entity(
        text=found, label=entity.label, score=entity.score, start=start, end=start + len(found)
    )


def probabilities(scores: Sequence[float], config: Phi3Config) -> list[float]:
    """What `LabelScore.score` holds for one row of raw scores [num_labels].

    Softmax over the labels; each label's own sigmoid where labels do not exclude each other, and
    for a single label; the raw values of a regression.
    """
    if config.problem_type == "regression":
        return list(scores)
    if config.problem_type == "multi_label_classification" or len(scores) == 1:
        return [sigmoid(score) for score in scores]
    return softmax(scores)


def softmax(scores: Sequence[float]) -> list[float]:
    largest = max(scores)
    weights = [math.exp(score - largest) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def sigmoid(score: float) -> float:
    # Written for either sign, so that exp never overflows.
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    weight = math.exp(score)
    return weight / (1 + weight)
