"""One sequence in a cache: what it was made of, and which of it is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from phi3svc.api.rows import EMBEDDED, NewTokens
from phi3svc.model.network import Network
from phi3svc.ops import PAGE_SIZE


@dataclass
class CachedRow:
    """All tokens of one row so far, kept so that they can be computed again.

    token_ids, positions: one of each per token; token_ids are `EMBEDDED` where `embeddings` has
    (place, float32 [n, E]) of tokens from that place on. pages: page ids of places 0..15, 16..31,
    ... num_computed: tokens, from the first on, whose keys and values are in the pages, rotated
    with the factor set `rope_set`.
    """

    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    embeddings: list[tuple[int, Tensor]] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    num_computed: int = 0
    rope_set: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_pages_missing(self) -> int:
        """Pages that its tokens need and it has not."""
        return max(0, -(-len(self) // PAGE_SIZE) - len(self.pages))

    def append(self, new: NewTokens) -> None:
        if new.embeddings is not None:
            self.embeddings.append((len(self), new.embeddings))
        self.token_ids += new.token_ids
        self.positions += new.positions

    def use_rope_set(self, rope_set: int) -> None:
        """Count what was computed with another factor set as not computed."""
        if rope_set != self.rope_set:
            self.rope_set, self.num_computed = rope_set, 0

    def cut(self, num_tokens: int) -> list[int]:
        """Keep the first `num_tokens` tokens; returns the page ids that are no longer needed."""
        del self.token_ids[num_tokens:], self.positions[num_tokens:]
        self.embeddings = [
            (place, given[: num_tokens - place])
            for place, given in self.embeddings
            if place < num_tokens
        ]
        self.num_computed = min(self.num_computed, num_tokens)
        num_pages = -(-num_tokens // PAGE_SIZE)
        freed = self.pages[num_pages:]
        del self.pages[num_pages:]
        return freed

    def copy(self, pages: list[int]) -> Self:
        """The same sequence in pages of its own, to which the caller copies."""
        return type(self)(
            list(self.token_ids),
            list(self.positions),
            list(self.embeddings),
            pages,
            self.num_computed,
            self.rope_set,
        )

    def is_embedded(self, span: range) -> bool:
        """Whether a token of `span` was given as an embedding."""
        return bool(self.embeddings) and EMBEDDED in self.token_ids[span.start : span.stop]

    def embed(self, span: range, network: Network) -> Tensor:
        """Embeddings of the tokens in `span`, given or looked up: float32 [n, E]."""
        ids = torch.tensor(self.token_ids[span.start : span.stop], dtype=torch.int32)
        embeddings = network.embed(ids.clamp_(min=0))
        for place, given in self.embeddings:
            first, stop = max(place, span.start), min(place + len(given), span.stop)
            if first < stop:
                embeddings[first - span.start : stop - span.start] = given[
                    first - place : stop - place
                ]
        return embeddings
