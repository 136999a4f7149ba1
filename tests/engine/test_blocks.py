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


def keep(blocks: BlockManager, block_id: int, name: str) -> None:
    blocks.cache(block_id, name.encode(), name.encode() * 4)


def find(blocks: BlockManager, name: str) -> int | None:
    return blocks.find(name.encode(), name.encode() * 4)


def test_a_cached_block_is_found_while_held_and_after() -> None:
    blocks = BlockManager(num_blocks=2, block_size=16)
    (block_id,) = blocks.allocate(1)
    keep(blocks, block_id, "a")
    assert find(blocks, "a") == block_id
    blocks.free([block_id])
    assert find(blocks, "a") == block_id
    assert blocks.num_free == 2
    blocks.hold([block_id])
    assert blocks.num_free == 1
    blocks.hold([block_id])
    assert (blocks.num_free, blocks.num_holders(block_id)) == (1, 2)
    blocks.free([block_id])
    assert blocks.num_free == 1
    blocks.free([block_id])
    assert blocks.num_free == 2
    with pytest.raises(ValueError, match="freed twice"):
        blocks.free([block_id])


def test_equal_keys_of_other_content_are_told_apart() -> None:
    """Should two hashes ever collide, the second block stays unknown and the first unharmed."""
    blocks = BlockManager(num_blocks=2, block_size=16)
    first, second = blocks.allocate(2)
    blocks.cache(first, b"key", b"tokens")
    assert blocks.find(b"key", b"others") is None
    blocks.cache(second, b"key", b"others")
    assert blocks.find(b"key", b"others") is None
    assert blocks.find(b"key", b"tokens") == first
    assert not blocks.is_cached(second)


def test_empty_blocks_go_out_first_then_those_idle_for_longest_from_the_end() -> None:
    blocks = BlockManager(num_blocks=5, block_size=16)
    old, new = blocks.allocate(2), blocks.allocate(2)
    for block_id, name in zip([*old, *new], "abcd", strict=True):
        keep(blocks, block_id, name)
    blocks.free(old)
    blocks.free(new)
    blocks.hold([old[0]])
    blocks.free([old[0]])  # used again: now the youngest
    (empty,) = blocks.allocate(1)
    assert empty not in (*old, *new)
    forgotten = []
    for _ in range(4):
        blocks.allocate(1)
        forgotten += [n for n in "abcd" if find(blocks, n) is None and n not in forgotten]
    assert forgotten == ["b", "d", "c", "a"]
    assert (blocks.num_free, blocks.num_cached) == (0, 0)


def test_what_nobody_holds_or_knows_cannot_be_cached_or_held() -> None:
    blocks = BlockManager(num_blocks=2, block_size=16)
    with pytest.raises(ValueError, match="block 0 is held by nobody"):
        keep(blocks, 0, "a")
    (block_id,) = blocks.allocate(1)
    with pytest.raises(ValueError, match="is not cached"):
        blocks.hold([block_id])
