"""Gives sequences the blocks for their keys and values, and takes them back."""

from __future__ import annotations

from collections.abc import Callable

from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.prefix import PrefixCache
from phi3svc.engine.sequence import Sequence


class Room:
    """The blocks, as sequences use them.

    rope_set: the factor set of a sequence of that many tokens.
    """

    def __init__(
        self, blocks: BlockManager, prefixes: PrefixCache, rope_set: Callable[[int], int]
    ) -> None:
        self._blocks = blocks
        self._prefixes = prefixes
        self._rope_set = rope_set

    def take(self, sequence: Sequence, num_spare: int) -> bool:
        """Give a sequence blocks for all its known tokens, if `num_spare` are left free by that.

        They are those that hold its beginning already, and new ones for what is to be computed,
        with the factors for its present length.
        """
        rope_set = self._rope_set(sequence.num_tokens)
        if rope_set != sequence.rope_set:
            sequence.rope_set = rope_set
            sequence.prefix_chain.clear()
        known = self._prefixes.find(sequence)
        num_new = self._blocks.num_blocks_for(sequence.num_tokens) - len(known)
        num_idle = sum(self._blocks.num_holders(block_id) == 0 for block_id in known)
        if num_new + num_idle + num_spare > self._blocks.num_free:
            return False
        self._blocks.hold(known)
        sequence.block_table.extend(known)
        sequence.block_table.extend(self._blocks.allocate(num_new))
        sequence.num_kept_blocks = len(known)
        sequence.num_computed = len(known) * self._blocks.block_size
        del sequence.scores[sequence.num_computed :]
        return True

    def extend(self, sequence: Sequence, num_guessed: int = 0, *, num_spare: int = 0) -> bool:
        """Whether a running sequence has blocks for its tokens now; gives it what is missing.

        num_guessed: tokens to be computed behind those that are known. num_spare: blocks that are
        to be left free if it needs any.
        """
        if not sequence.block_table:
            return self.take(sequence, num_spare)
        num_needed = self._blocks.num_blocks_for(sequence.num_tokens + num_guessed)
        num_missing = num_needed - len(sequence.block_table)
        if num_missing <= 0:
            return True
        if num_missing + num_spare > self._blocks.num_free:
            return False
        sequence.block_table.extend(self._blocks.allocate(num_missing))
        return True

    def keep(self, sequence: Sequence) -> None:
        """Make its full blocks known to others that begin alike."""
        self._prefixes.keep(sequence)

    def free(self, sequence: Sequence) -> None:
        self._blocks.free(sequence.block_table)
        del sequence.block_table[:]
        sequence.num_computed = 0
