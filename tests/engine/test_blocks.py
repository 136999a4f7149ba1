from __future__ import annotations

import pytest

from phi3svc.engine.blocks import BlockManager


def test_blocks_are_distinct_and_return_to_the_pool() -> None:
    blocks = BlockManager(num_blocks=5, block_size=16)
    first, second = blocks.allocate(2), blocks.allocate(3)
    assert sorted(first + second) == [0, 1, 2, 3, 4]
    assert blocks.num_free == 0
    blocks.free(first)
    assert blocks.num_free == 2
    assert sorted(blocks.allocate(2)) == sorted(first)


def test_allocating_more_than_is_free_takes_nothing() -> None:
    blocks = BlockManager(num_blocks=2, block_size=16)
    with pytest.raises(ValueError, match="3 blocks asked for, 2 are free"):
        blocks.allocate(3)
    assert blocks.num_free == 2


def test_freeing_twice_is_noticed() -> None:
    blocks = BlockManager(num_blocks=2, block_size=16)
    taken = blocks.allocate(1)
    blocks.free(taken)
    with pytest.raises(ValueError, match="freed twice"):
        blocks.free(taken)


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (16, 1), (17, 2)])
def test_num_blocks_for_rounds_up(num_tokens: int, num_blocks: int) -> None:
    assert BlockManager(4, 16).num_blocks_for(num_tokens) == num_blocks
