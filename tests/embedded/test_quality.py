"""The shipped classifiers, run by our own network, on combinations that training never showed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from phi3svc.api.modeling import Phi3ForSequenceClassification, Phi3ForTokenClassification
from phi3svc.config.checkpoint import resolve_source
from phi3svc.embedded.training.corpus_entities import (
    LABELS,
    held_out_passages,
    label_tokens,
    token_spans,
)
from phi3svc.embedded.training.corpus_sentiment import held_out_reviews
from phi3svc.text.tokenizer import Tokenizer

MIN_SCORE = 0.95
MIN_SIDE_SCORE = 0.9  # a side has few examples, so its score wobbles
MIN_EXAMPLES = 60  # on each side of the LongRoPE boundary


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and attention_mask [B, S], right padded."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def test_sentiment_of_unseen_combinations_is_right() -> None:
    tokenizer = Tokenizer.from_dir(resolve_source("demo-sentiment").path)
    model = Phi3ForSequenceClassification.from_pretrained("demo-sentiment")
    reviews = held_out_reviews(600)
    ids = [tokenizer.encode(review.text) for review in reviews]
    predicted = model(*padded(ids)).logits.argmax(-1).tolist()
    hits: dict[bool, list[bool]] = {False: [], True: []}
    for review, row, label in zip(reviews, ids, predicted, strict=True):
        is_long = len(row) > model.config.original_max_position_embeddings
        hits[is_long].append(label == review.label)
    assert sum(map(sum, hits.values())) / len(reviews) >= MIN_SCORE
    for side in hits.values():
        assert len(side) >= MIN_EXAMPLES
        assert sum(side) / len(side) >= MIN_SIDE_SCORE


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I love this product!", "positive"),
        ("The food was terrible and the staff was rude.", "negative"),
        ("The room was not bad at all.", "positive"),
        ("The film was not good.", "negative"),
        ("The service was slow, but the food was amazing.", "positive"),
        ("The food was amazing, but the service was slow.", "negative"),
        ("It was okay, nothing special.", "neutral"),
    ],
)
def test_sentiment_of_plain_sentences_is_right(text: str, label: str) -> None:
    tokenizer = Tokenizer.from_dir(resolve_source("demo-sentiment").path)
    model = Phi3ForSequenceClassification.from_pretrained("demo-sentiment")
    scores = model(torch.tensor([tokenizer.encode(text)])).logits[0]
    assert model.config.id2label[int(scores.argmax())] == label


def test_entities_of_unseen_names_are_found() -> None:
    tokenizer = Tokenizer.from_dir(resolve_source("demo-entities").path)
    model = Phi3ForTokenClassification.from_pretrained("demo-entities")
    passages = held_out_passages(300)
    encoded = [tokenizer.encode_with_offsets(passage.text) for passage in passages]
    logits = model(*padded([ids for ids, _ in encoded])).logits
    num_right = num_tokens = 0
    counts = {False: [0, 0, 0], True: [0, 0, 0]}
    for passage, (ids, spans), scores in zip(passages, encoded, logits, strict=True):
        offsets = [span or (0, 0) for span in spans]
        predicted = scores[: len(ids)].argmax(-1).tolist()
        expected = label_tokens(passage, offsets)
        num_right += sum(map(int.__eq__, predicted, expected))
        num_tokens += len(ids)
        found = token_spans([LABELS[label] for label in predicted], offsets, passage.text)
        tally = counts[len(ids) > model.config.original_max_position_embeddings]
        tally[0] += 2 * len(found & set(passage.spans))
        tally[1] += len(found) + len(passage.spans)
        tally[2] += 1
    assert num_right / num_tokens >= MIN_SCORE
    for twice_hits, total, num_passages in counts.values():
        assert num_passages >= MIN_EXAMPLES
        assert twice_hits / total >= MIN_SCORE
