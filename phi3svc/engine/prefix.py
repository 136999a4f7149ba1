"""Finds the blocks that hold a sequence's beginning already, by a chain of hashes.

The key of a full block is a keyed hash of its tokens and of the key before it, so it stands for the
whole sequence up to its end. The chain begins with what else decides the keys and values, the model
and its factor set, and with who may share them: those of two tenants, or of two
`cache_salt`s, never meet, so that nobody can learn from response times what another has sent;
tenants that give the same salt mean to share. The hash's own key is random and
never leaves the process: no request can be made to collide with another's, and the tokens of a
block are compared besides.

A key that is found has the very keys and values that computing would give, bit for bit: those of a
token depend on the tokens up to it alone, by the kernels' batch invariance.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array

from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.sequence import Sequence

KEY_BYTES = 16
_HASH_KEY_BYTES = 32


class PrefixCache:
    """Looks sequences up among the blocks, and makes their full blocks known.

    is_enabled: when not, only the answers of one request share what was computed.
    """

    def __init__(self, blocks: BlockManager, *, is_enabled: bool) -> None:
        self._blocks = blocks
        self._is_enabled = is_enabled
        self._hash_key = secrets.token_bytes(_HASH_KEY_BYTES)

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks with the longest known beginning of what the sequence need not compute.

        Only for a sequence without blocks. The caller holds what it means to use.
        """
        found: list[int] = []
        if not self._shares(sequence):
            return found
        for index in range(sequence.first_needed_row // self._blocks.block_size):
            block_id = self._blocks.find(*self._link(sequence, index))
            if block_id is None:
                break
            found.append(block_id)
        return found

    def keep(self, sequence: Sequence) -> None:
        """Make known the sequence's blocks that have been computed in full."""
        if not self._shares(sequence):
            return
        num_full = sequence.num_computed // self._blocks.block_size
        for index in range(sequence.num_kept_blocks, num_full):
            self._blocks.cache(sequence.block_table[index], *self._link(sequence, index))
        sequence.num_kept_blocks = max(sequence.num_kept_blocks, num_full)

    def _shares(self, sequence: Sequence) -> bool:
        request = sequence.request
        return self._is_enabled or (isinstance(request, GenerateRequest) and request.n > 1)

    def _link(self, sequence: Sequence, index: int) -> tuple[bytes, bytes]:
        """Key and tokens of a block; those before it have theirs."""
        chain = sequence.prefix_chain
        while len(chain) <= index:
            before = chain[-1][0] if chain else self._root(sequence)
            start = len(chain) * self._blocks.block_size
            token_ids = sequence.token_ids[start : start + self._blocks.block_size]
            content = array("i", token_ids).tobytes()
            chain.append((self._hash(before + content, b"block"), content))
        return chain[index]

    def _root(self, sequence: Sequence) -> bytes:
        request = sequence.request
        sharers = f"salt:{request.cache_salt}" if request.cache_salt else f"tenant:{request.tenant}"
        # repr quotes its parts, so that no two different roots look the same.
        alone = "" if self._is_enabled else request.request_id
        root = repr((request.model, sequence.rope_set, sharers, alone))
        return self._hash(root.encode(errors="surrogatepass"), b"root")

    def _hash(self, data: bytes, kind: bytes) -> bytes:
        return hashlib.blake2b(
            data, digest_size=KEY_BYTES, key=self._hash_key, person=kind
        ).digest()
