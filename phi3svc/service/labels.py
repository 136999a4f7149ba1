"""From raw scores of a classification head to the labels and entities of the wire."""

from __future__ import annotations

from collections.abc import Sequence

from phi3svc.config.model import Phi3Config
from phi3svc.text.entities import Entity, ScoredToken, aggregate
from phi3svc.text.probabilities import probabilities
from phi3svc.v1 import classification_service_pb2


def to_classification(
    scores: Sequence[float], config: Phi3Config
) -> classification_service_pb2.Classification:
    """Every label with its probability, the best first. scores: raw, [C]."""
    found = zip(config.labels, probabilities(scores, config), strict=True)
    return classification_service_pb2.Classification(
        labels=[
            classification_service_pb2.LabelScore(label=label, score=score)
            for label, score in sorted(found, key=lambda item: -item[1])
        ]
    )


def to_token_classification(
    tokens: Sequence[ScoredToken], text: str, config: Phi3Config, strategy: str
) -> classification_service_pb2.TokenClassification:
    """The best label of each token, and entities by `strategy`, one of `entities.STRATEGIES`."""
    return classification_service_pb2.TokenClassification(
        tokens=[
            classification_service_pb2.TokenLabel(
                text=text[token.start : token.end],
                label=token.label,
                score=token.score,
                start=token.start,
                end=token.end,
            )
            for token in aggregate(tokens, config.labels, "none", ignore_labels=())
        ],
        entities=[
            _to_entity(text, entity) for entity in aggregate(tokens, config.labels, strategy)
        ],
    )


def _to_entity(text: str, entity: Entity) -> classification_service_pb2.Entity:
    # Tokens carry the blank before their word; a name does not begin with one.
    found = text[entity.start : entity.end]
    start = entity.start + len(found) - len(found.lstrip())
    found = found.strip()
    return classification_service_pb2.Entity(
        text=found, label=entity.label, score=entity.score, start=start, end=start + len(found)
    )
