"""Cuts tokens into smaller ones at random, as BPE dropout does, but from a seed."""

from __future__ import annotations

import random

from tokenizers import Encoding, Tokenizer

Span = tuple[int, int]


def cut_tokens(
    tokenizer: Tokenizer, encoding: Encoding, share: float, rng: random.Random
) -> tuple[list[int], list[Span]]:
    """Ids and offsets of the same text with about `share` of the longer tokens in two pieces.

    No piece is a lone space mark, whose entity could not be told from the left.
    """
    ids, offsets = list[int](), list[Span]()
    for token, token_id, (start, end) in zip(
        encoding.tokens, encoding.ids, encoding.offsets, strict=True
    ):
        pieces = [
            (tokenizer.token_to_id(token[:place]), tokenizer.token_to_id(token[place:]), place)
            for place in range(2 if token.startswith("▁") else 1, len(token))
        ]
        known = [piece for piece in pieces if piece[0] is not None and piece[1] is not None]
        if known and not token.startswith("<") and rng.random() < share:
            left, right, place = rng.choice(known)
            middle = end - (len(token) - place)
            ids += [left, right]
            offsets += [(start, middle), (middle, end)]
        else:
            ids.append(token_id)
            offsets.append((start, end))
    return ids, offsets
