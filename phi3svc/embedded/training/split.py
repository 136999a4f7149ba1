"""Deterministic division of what the grammars can say into trained and held-out combinations."""

from __future__ import annotations

from hashlib import blake2b

HELD_OUT_SHARE = 8
"""One combination in this many is never trained on."""


def is_held_out(*key: object) -> bool:
    """Whether the combination named by `key` (fact and phrasing, say) is kept from training."""
    digest = blake2b("\x1f".join(map(str, key)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_SHARE == 0
