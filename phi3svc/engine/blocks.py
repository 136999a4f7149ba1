"""Who holds which KV block, and what the blocks that nobody holds still know.

Knows nothing of tensors: a block is a number. A block is empty, held by one or more sequences, or
idle: held by nobody, but cached, so that a later sequence with the same beginning can take it up.
Idle blocks count as free; when the empty ones are used up, the one idle for longest is forgotten.
Every operation costs a fixed time per block.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockManager:
    """A pool of `num_blocks` blocks of `block_size` tokens, with a count of holders for each."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        # A stack: the block freed last is warm in the CPU's cache, so it goes out first.
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._num_holders = array("i", [0]) * num_blocks
        # Cached blocks: by key, and what each one holds. Idle ones also in order of their last use.
        self._cached: dict[bytes, int] = {}
        self._contents: dict[int, tuple[bytes, bytes]] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can give."""
        return len(self._empty) + len(self._idle)

    @property
    def num_cached(self) -> int:
        """Blocks that `find` can find, held or idle."""
        return len(self._contents)

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def num_holders(self, block_id: int) -> int:
        return self._num_holders[block_id]

    def is_cached(self, block_id: int) -> bool:
        """Whether others may take this block up at any time: it must not be written any more."""
        return block_id in self._contents

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks for one holder to write to. The caller has looked at `num_free`."""
        if num_blocks > self.num_free:
            raise ValueError(f"{num_blocks} blocks asked for, {self.num_free} are free")
        taken = [
            self._empty.pop() if self._empty else self._forget_oldest() for _ in range(num_blocks)
        ]
        for block_id in taken:
            self._num_holders[block_id] = 1
        return taken

    def hold(self, block_ids: Iterable[int]) -> None:
        """Add one holder to each of these cached blocks."""
        for block_id in block_ids:
            if block_id not in self._contents:
                raise ValueError(f"block {block_id} is not cached")
            if self._num_holders[block_id] == 0:
                del self._idle[block_id]
            self._num_holders[block_id] += 1

    def free(self, block_ids: Sequence[int]) -> None:
        """Take one holder away from each; the blocks are those of one sequence, in its order."""
        # Backwards: a block is of no use without those before it, so it has to be forgotten first.
        for block_id in reversed(block_ids):
            if self._num_holders[block_id] == 0:
                raise ValueError(f"block {block_id} freed twice")
            self._num_holders[block_id] -= 1
            if self._num_holders[block_id] == 0:
                if block_id in self._contents:
                    self._idle[block_id] = None
                else:
                    self._empty.append(block_id)

    def cache(self, block_id: int, key: bytes, content: bytes) -> None:
        """Let `find` find a held block from now on, unless another has the same key already."""
        if self._num_holders[block_id] == 0:
            raise ValueError(f"block {block_id} is held by nobody")
        if block_id not in self._contents and key not in self._cached:
            self._cached[key] = block_id
            self._contents[block_id] = (key, content)

    def find(self, key: bytes, content: bytes) -> int | None:
        """The block cached under `key`, if it is `content` that it holds."""
        block_id = self._cached.get(key)
        if block_id is None or self._contents[block_id][1] != content:
            return None
        return block_id

    def _forget_oldest(self) -> int:
        block_id, _ = self._idle.popitem(last=False)
        key, _ = self._contents.pop(block_id)
        del self._cached[key]
        return block_id
