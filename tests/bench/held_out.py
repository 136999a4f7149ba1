"""How well an embedded model does its job on what training never showed, to compare formats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tokenizers
import torch
from torch import Tensor

from phi3svc.api.modeling import (
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    Phi3ForTokenClassification,
)
from phi3svc.config.checkpoint import resolve_source
from phi3svc.embedded.training.batches import IGNORED
from phi3svc.embedded.training.corpus_chat import held_out_dialogues
from phi3svc.embedded.training.corpus_entities import LABELS, held_out_passages, token_spans
from phi3svc.embedded.training.corpus_sentiment import held_out_reviews
from phi3svc.embedded.training.recipe_chat import encode
from phi3svc.model.network import Network
from phi3svc.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answers:
    """What a generator thinks of the answers of held-out dialogues, token by token.

    perplexity: of the answers' tokens. likeliest: the token that it would have said in each place.
    """

    perplexity: float
    likeliest: Tensor

    def agreement(self, other: Answers) -> float:
        """The share of places in which both would say the same."""
        return (self.likeliest == other.likeliest).float().mean().item()


def answers(network: Network, num_dialogues: int) -> Answers:
    """Of the model `demo`."""
    folder = resolve_source("demo").path
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = Phi3ForCausalLM.from_network(network, str(folder))
    logprob_sum = 0.0
    likeliest = []
    for dialogue in held_out_dialogues(num_dialogues):
        row = encode(tokenizer, dialogue)
        targets = torch.tensor(row.labels[1:])
        is_answer = targets != IGNORED
        logits = model(torch.tensor([row.token_ids])).logits[0, :-1][is_answer]
        chosen = logits.log_softmax(-1).gather(-1, targets[is_answer].unsqueeze(-1))
        logprob_sum += chosen.double().sum().item()
        likeliest.append(logits.argmax(-1))
    places = torch.cat(likeliest)
    return Answers(math.exp(-logprob_sum / len(places)), places)


def sentiment_accuracy(network: Network, num_reviews: int) -> float:
    """Of the model `demo-sentiment`: the share of reviews that get their label."""
    folder = resolve_source("demo-sentiment").path
    tokenizer = Tokenizer.from_dir(folder)
    model = Phi3ForSequenceClassification.from_network(network, str(folder))
    reviews = held_out_reviews(num_reviews)
    predicted = [
        int(logits.argmax())
        for logits in _logits(model, [tokenizer.encode(review.text) for review in reviews])
    ]
    hits = [label == review.label for label, review in zip(predicted, reviews, strict=True)]
    return sum(hits) / len(hits)


def entity_f1(network: Network, num_passages: int) -> float:
    """Of the model `demo-entities`: exact matches of kind and span."""
    folder = resolve_source("demo-entities").path
    tokenizer = Tokenizer.from_dir(folder)
    model = Phi3ForTokenClassification.from_network(network, str(folder))
    passages = held_out_passages(num_passages)
    encoded = [tokenizer.encode_with_offsets(passage.text) for passage in passages]
    num_hits = num_spans = 0
    rows = _logits(model, [ids for ids, _ in encoded])
    for passage, (_, spans), scores in zip(passages, encoded, rows, strict=True):
        labels = [LABELS[label] for label in scores.argmax(-1).tolist()]
        found = token_spans(labels, [span or (0, 0) for span in spans], passage.text)
        num_hits += 2 * len(found & set(passage.spans))
        num_spans += len(found) + len(passage.spans)
    return num_hits / num_spans


def _logits(
    model: Phi3ForSequenceClassification | Phi3ForTokenClassification, rows: Sequence[list[int]]
) -> Iterator[Tensor]:
    for row in rows:
        yield model(torch.tensor([row])).logits[0]
