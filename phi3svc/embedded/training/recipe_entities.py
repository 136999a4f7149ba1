"""`demo-entities`: people, organisations, places and dates in a text."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Phi3Config, Phi3ForTokenClassification, PreTrainedModel

from phi3svc.embedded.training.architecture import phi3_config
from phi3svc.embedded.training.batches import IGNORED, Batch, Encoded
from phi3svc.embedded.training.corpus_entities import (
    LABELS,
    held_out_passages,
    label_tokens,
    passages,
    token_spans,
)
from phi3svc.embedded.training.recipe import Recipe, Scores
from phi3svc.embedded.training.segments import cut_tokens
from phi3svc.embedded.training.tokenizer import END_OF_TEXT

VOCAB_SIZE = 2560
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
    config.classifier_dropout = 0.0
    return config


def _texts(seed: int) -> Iterator[str]:
    return (passage.text for passage in passages(seed))


def _rows(tokenizer: Tokenizer, seed: int) -> Iterator[Encoded]:
    """Some tokens are cut in two, so that a name in unusual pieces is still tagged as one."""
    rng = random.Random(seed)
    for passage in passages(seed):
        share = rng.choice((0.0, 0.0, 0.3))
        ids, offsets = cut_tokens(tokenizer, tokenizer.encode(passage.text), share, rng)
        yield Encoded(ids, label_tokens(passage, offsets))


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(input_ids=batch.token_ids, use_cache=False).logits.float()
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED
    )


@torch.inference_mode()
def _score(model: PreTrainedModel, tokenizer: Tokenizer) -> Scores:
    """Token accuracy and exact-match entity F1 on unseen names, on both sides of the boundary."""
    num_right = num_tokens = 0
    counts = {"entity_f1": [0, 0], "entity_f1_short": [0, 0], "entity_f1_long": [0, 0]}
    for passage in held_out_passages(600):
        encoding = tokenizer.encode(passage.text)
        logits = model(input_ids=torch.tensor([encoding.ids])).logits[0]
        predicted = logits.argmax(-1).tolist()
        expected = label_tokens(passage, encoding.offsets)
        num_right += sum(map(int.__eq__, predicted, expected))
        num_tokens += len(expected)
        found = token_spans([LABELS[i] for i in predicted], encoding.offsets, passage.text)
        side = "entity_f1_short" if len(encoding.ids) <= ORIGINAL_LEN else "entity_f1_long"
        for name in ("entity_f1", side):
            counts[name][0] += 2 * len(found & set(passage.spans))
            counts[name][1] += len(found) + len(passage.spans)
    scores = {"token_accuracy": num_right / num_tokens}
    return scores | {name: twice / max(1, total) for name, (twice, total) in counts.items()}


ENTITIES = Recipe(
    name="demo-entities",
    title="Names and dates in a text",
    summary=(
        "Tags people (PER), organisations (ORG), places (LOC) and dates (DATE) with BIO labels, one "
        "per token. The network reads from left to right, so a name is judged by what precedes it."
    ),
    vocab_size=VOCAB_SIZE,
    original_len=ORIGINAL_LEN,
    num_steps=1000,
    tokens_per_batch=2048,
    is_chat=False,
    model_class=Phi3ForTokenClassification,
    config=_config,
    texts=_texts,
    rows=_rows,
    loss=_loss,
    score=_score,
)
