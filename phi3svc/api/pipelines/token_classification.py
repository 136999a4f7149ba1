"""token-classification: labels of tokens, and the entities they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phi3svc.api.modeling import Phi3ForTokenClassification
from phi3svc.api.pipelines.base import Pipeline, pad_rows, read_count, refuse_unknown
from phi3svc.errors import InvalidRequest
from phi3svc.text.entities import OUTSIDE, Entity, aggregate, check_strategy, score_tokens
from phi3svc.text.tokenizer import Span

_KNOWN = ("aggregation_strategy", "ignore_labels", "stride")

Window = tuple[list[int], list[Span | None]]
Found = dict[str, Any]


@dataclass(frozen=True)
class _Settings:
    strategy: str
    ignore_labels: tuple[str, ...]
    stride: int | None


class TokenClassificationPipeline(Pipeline):
    """Labelled tokens or entities of texts, with their characters [start, end).

    aggregation_strategy: "none" (the default), "simple", "first", "average" or "max", see
    `phi3svc.text.entities`. Each token that is no O is a dict of entity, score, index, word, start
    and end; with another strategy, each entity is one of entity_group, score, word, start and end.
    ignore_labels: what is left out, in place of O. A text is cut to the tokenizer's
    model_max_length; stride: it is read in windows of that length instead, which overlap by so many
    tokens, and of entities that overlap the longest stays.
    """

    task = "token-classification"
    model_class = Phi3ForTokenClassification
    model: Phi3ForTokenClassification

    def _read_settings(self, given: Mapping[str, Any]) -> _Settings:
        refuse_unknown(given, _KNOWN)
        strategy = str(given.get("aggregation_strategy") or "none").lower()
        check_strategy(strategy)
        ignored = given.get("ignore_labels")
        if ignored is None:
            ignored = [OUTSIDE]
        if isinstance(ignored, str) or not all(isinstance(label, str) for label in ignored):
            raise InvalidRequest.of("ignore_labels", f"{ignored!r}, must be a list of labels")
        stride = read_count(given, "stride", low=0)
        if stride is not None:
            limit = self.tokenizer.model_max_length
            if limit is None:
                raise InvalidRequest.of("stride", "given, and the tokenizer has no greatest length")
            if stride >= limit:
                raise InvalidRequest.of("stride", f"{stride}, must be 0 to {limit - 1}")
            if strategy == "none":
                raise InvalidRequest.of("stride", 'given with aggregation_strategy "none"')
        return _Settings(strategy, tuple(ignored), stride)

    def _run(self, inputs: list[Any], settings: _Settings) -> list[list[Found]]:
        texts = [self._windows(text, settings) for text in inputs]
        windows = [ids for text in texts for ids, _ in text]
        if not all(windows):
            raise InvalidRequest.of("inputs", "a text without tokens, must come to at least one")
        token_ids, mask = pad_rows(windows, self.tokenizer.pad_token_id)
        logits = self.model(token_ids, attention_mask=mask).logits
        assert logits is not None
        rows = iter(zip(windows, logits, strict=True))
        results = []
        for text, windows_of in zip(inputs, texts, strict=True):
            found: list[Found] = []
            # In this order, so that no row is taken that belongs to the next text.
            for (_, spans), (ids, scores) in zip(windows_of, rows, strict=False):
                found += self._find(text, ids, spans, scores[: len(ids)].tolist(), settings)
            results.append(found if len(windows_of) == 1 else _without_overlaps(found))
        return results

    def _windows(self, text: Any, settings: _Settings) -> list[Window]:
        if not isinstance(text, str):
            raise InvalidRequest.of("inputs", f"has a {type(text).__name__}, must be texts")
        limit = self.tokenizer.model_max_length
        windows = self.tokenizer.encode_windows(text, limit, settings.stride or 0)
        return windows if settings.stride is not None else windows[:1]

    def _find(
        self,
        text: str,
        ids: list[int],
        spans: list[Span | None],
        rows: list[list[float]],
        settings: _Settings,
    ) -> list[Found]:
        unknown = self.tokenizer.unk_token_id
        tokens = score_tokens(text, ids, spans, rows, unknown)
        spellings = [
            text[token.start : token.end]
            if ids[token.index] == unknown
            else self.tokenizer.spelling(ids[token.index])
            for token in tokens
        ]
        entities = aggregate(
            tokens, self.model.config.labels, settings.strategy, settings.ignore_labels
        )
        if settings.strategy != "none":
            return [self._group(entity, spellings, settings.strategy) for entity in entities]
        return [
            {
                "entity": entity.label,
                "score": entity.score,
                "index": tokens[entity.words[0].start].index,
                "word": spellings[entity.words[0].start],
                "start": entity.start,
                "end": entity.end,
            }
            for entity in entities
        ]

    def _group(self, entity: Entity, spellings: list[str], strategy: str) -> Found:
        words = [spellings[word.start : word.stop] for word in entity.words]
        if strategy == "simple":
            pieces = [piece for word in words for piece in word]
        else:  # transformers decodes each word, and then the words as if they were tokens
            pieces = [self.tokenizer.join(word) for word in words]
        return {
            "entity_group": entity.label,
            "score": entity.score,
            "word": self.tokenizer.join(pieces),
            "start": entity.start,
            "end": entity.end,
        }


def _without_overlaps(found: list[Found]) -> list[Found]:
    """In order of their beginnings; of neighbours that overlap the longer stays, then the surer."""
    kept: list[Found] = []
    for item in sorted(found, key=lambda item: int(item["start"])):
        if not kept or not kept[-1]["start"] <= item["start"] < kept[-1]["end"]:
            kept.append(item)
        elif _weight(item) > _weight(kept[-1]):
            kept[-1] = item
    return kept


def _weight(item: Found) -> tuple[int, float]:
    return item["end"] - item["start"], item["score"]
