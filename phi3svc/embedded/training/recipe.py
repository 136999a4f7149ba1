"""What one embedded model is made of; `train.py` cooks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Phi3Config, PreTrainedModel

from phi3svc.embedded.training.batches import Batch, Encoded

Scores = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """Everything the training loop needs to know about a model.

    texts: endless text to learn the tokenizer from; rows: endless training rows from a tokenizer
    and a seed; score: held-out scores by name; original_len: LongRoPE's boundary in tokens.
    """

    name: str
    title: str
    summary: str
    vocab_size: int
    original_len: int
    num_steps: int
    tokens_per_batch: int
    is_chat: bool
    model_class: type[PreTrainedModel]
    config: Callable[[Tokenizer], Phi3Config]
    texts: Callable[[int], Iterator[str]]
    rows: Callable[[Tokenizer, int], Iterator[Encoded]]
    loss: Callable[[nn.Module, Batch], Tensor]
    score: Callable[[PreTrainedModel, Tokenizer], Scores]
