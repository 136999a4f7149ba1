"""text-classification: the labels of whole texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phi3svc.api.modeling import Phi3ForSequenceClassification
from phi3svc.api.pipelines.base import (
    Pipeline,
    pad_rows,
    read_count,
    read_flag,
    refuse_unknown,
)
from phi3svc.errors import InvalidRequest
from phi3svc.text.probabilities import FUNCTIONS, Function, probabilities

_KNOWN = ("top_k", "function_to_apply", "truncation", "max_length", "padding")


@dataclass(frozen=True)
class _Settings:
    """wants_list: every result is a list, even of one label. top_k: None for all labels; function:
    None for the model's own. max_tokens: where texts are cut; None for nowhere."""

    wants_list: bool
    top_k: int | None
    function: Function | None
    max_tokens: int | None


class TextClassificationPipeline(Pipeline):
    """Scored labels of texts.

    A text gives a list of its best label, `[{"label": ..., "score": ...}]`, a list of texts a list
    of such dicts. top_k: so many labels for each text, the best first, None for all; results of
    single texts are then lists, also for 1. function_to_apply: "sigmoid", "softmax" or "none" in
    place of the model's own (`probabilities`). truncation, max_length: cut texts to max_length
    tokens, or to the tokenizer's model_max_length; padding is taken and ignored.
    """

    task = "text-classification"
    model_class = Phi3ForSequenceClassification
    model: Phi3ForSequenceClassification

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        result = super().__call__(inputs, **settings)
        # As in transformers, which goes by the arguments of the call alone.
        return [result] if isinstance(inputs, str) and "top_k" not in settings else result

    def _is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, (str, Mapping))

    def _read_settings(self, given: Mapping[str, Any]) -> _Settings:
        refuse_unknown(given, _KNOWN)
        function = given.get("function_to_apply")
        if function is not None and str(function).lower() not in FUNCTIONS:
            raise InvalidRequest.of(
                "function_to_apply", f"{function!r}, must be one of {', '.join(FUNCTIONS)}"
            )
        max_length = read_count(given, "max_length")
        if max_length is None:
            max_length = self.tokenizer.model_max_length
        return _Settings(
            wants_list="top_k" in given,
            top_k=read_count(given, "top_k") if "top_k" in given else 1,
            function=None if function is None else FUNCTIONS[str(function).lower()],
            max_tokens=max_length if read_flag(given, "truncation") else None,
        )

    def _run(self, inputs: list[Any], settings: _Settings) -> list[Any]:
        rows = [
            self.tokenizer.encode(_text(item), max_length=settings.max_tokens) for item in inputs
        ]
        if not all(rows):
            raise InvalidRequest.of("inputs", "a text without tokens, must come to at least one")
        ids, mask = pad_rows(rows, self.tokenizer.pad_token_id)
        logits = self.model(ids, attention_mask=mask, use_cache=False).logits
        assert logits is not None
        return [self._labels(row, settings) for row in logits.tolist()]

    def _labels(self, row: list[float], settings: _Settings) -> Any:
        config = self.model.config
        scores = settings.function(row) if settings.function else probabilities(row, config)
        found: list[dict[str, Any]] = [
            {"label": label, "score": score}
            for label, score in zip(config.labels, scores, strict=True)
        ]
        # Stable: equal ones stay in the model's order.
        found.sort(key=lambda item: -item["score"])
        return found[: settings.top_k] if settings.wants_list else found[0]


def _text(item: Any) -> str:
    if isinstance(item, Mapping) and set(item) == {"text"}:
        item = item["text"]
    if isinstance(item, Mapping) and "text_pair" in item:
        raise InvalidRequest.of("text_pair", "given, and Phi-3 classifies single texts")
    if not isinstance(item, str):
        raise InvalidRequest.of(
            "inputs", f'has a {type(item).__name__}, must be texts, or {{"text": ...}} of one'
        )
    return item
