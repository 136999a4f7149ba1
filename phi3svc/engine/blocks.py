"""Who owns which KV block. Knows nothing of tensors: a block is a number."""

from __future__ import annotations

from collections.abc import Sequence


class BlockManager:
    """A pool of `num_blocks` blocks of `block_size` tokens, each with at most one owner."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        # A stack: the block freed last is warm in the cache, so it goes out first.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_allocated = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks out of the pool. The caller has looked at `num_free`."""
        if num_blocks > len(self._free):
            raise ValueError(f"{num_blocks} blocks asked for, {len(self._free)} are free")
        taken = [self._free.pop() for _ in range(num_blocks)]
        for block_id in taken:
            self._is_allocated[block_id] = True
        return taken

    def free(self, block_ids: Sequence[int]) -> None:
        """Put blocks back into the pool."""
        for block_id in block_ids:
            if not self._is_allocated[block_id]:
                raise ValueError(f"block {block_id} freed twice")
            self._is_allocated[block_id] = False
            self._free.append(block_id)
