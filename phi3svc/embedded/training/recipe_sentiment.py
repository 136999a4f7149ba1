"""`demo-sentiment`: the sentiment of a review."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Phi3Config, Phi3ForSequenceClassification, PreTrainedModel

from phi3svc.embedded.training.architecture import phi3_config
from phi3svc.embedded.training.batches import IGNORED, Batch, Encoded
from phi3svc.embedded.training.corpus_sentiment import LABELS, held_out_reviews, reviews
from phi3svc.embedded.training.recipe import Recipe, Scores
from phi3svc.embedded.training.tokenizer import END_OF_TEXT

VOCAB_SIZE = 1280
ORIGINAL_LEN = 64


def _config(tokenizer: Tokenizer) -> Phi3Config:
    end = tokenizer.token_to_id(END_OF_TEXT)
    config = phi3_config(
        vocab_size=VOCAB_SIZE,
        num_layers=3,
        intermediate_size=256,
        original_len=ORIGINAL_LEN,
        end_id=end,
        pad_id=end,
        tie_word_embeddings=False,
        labels=LABELS,
    )
    config.problem_type = "single_label_classification"
    return config


def _texts(seed: int) -> Iterator[str]:
    return (review.text for review in reviews(seed))


def _rows(tokenizer: Tokenizer, seed: int) -> Iterator[Encoded]:
    """Beginnings that are reviews themselves are learned too: more labels for the same text."""
    for review in reviews(seed):
        encoding = tokenizer.encode(review.text)
        labels = [IGNORED] * len(encoding.ids)
        for prefix_len, label in review.prefixes:
            labels[encoding.char_to_token(prefix_len - 1)] = label
        labels[-1] = review.label
        yield Encoded(encoding.ids, labels)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    hidden = model.model(input_ids=batch.token_ids, use_cache=False).last_hidden_state
    is_learned = batch.labels != IGNORED
    logits = model.score(hidden[is_learned]).float()
    return nn.functional.cross_entropy(logits, batch.labels[is_learned])


@torch.inference_mode()
def _score(model: PreTrainedModel, tokenizer: Tokenizer) -> Scores:
    """Accuracy on unseen combinations, over all and on either side of the LongRoPE boundary."""
    hits: dict[str, list[bool]] = {"accuracy": [], "accuracy_short": [], "accuracy_long": []}
    for review in held_out_reviews(1000):
        ids = tokenizer.encode(review.text).ids
        predicted = int(model(input_ids=torch.tensor([ids])).logits[0].argmax())
        side = "accuracy_short" if len(ids) <= ORIGINAL_LEN else "accuracy_long"
        for name in ("accuracy", side):
            hits[name].append(predicted == review.label)
    return {name: sum(values) / len(values) for name, values in hits.items()}


SENTIMENT = Recipe(
    name="demo-sentiment",
    title="Sentiment of reviews",
    summary=(
        "Labels a product, service or travel review as negative, neutral or positive. The score "
        "is read from the last token."
    ),
    vocab_size=VOCAB_SIZE,
    original_len=ORIGINAL_LEN,
    num_steps=1400,
    tokens_per_batch=3072,
    is_chat=False,
    model_class=Phi3ForSequenceClassification,
    config=_config,
    texts=_texts,
    rows=_rows,
    loss=_loss,
    score=_score,
)
