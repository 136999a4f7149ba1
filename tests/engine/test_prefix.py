"""Which sequences share blocks, and which must not; with a formula for a model."""

from __future__ import annotations

import pytest

from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.prefix import PrefixCache
from phi3svc.engine.sequence import Sequence
from tests.engine.requests import classify, generate
from tests.engine.test_scheduler import BLOCK_SIZE, Harness, expected_tokens, shape

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_a_prompt_that_came_before_is_computed_from_its_first_unknown_block() -> None:
    h = Harness()
    first = h.add(generate("first", PROMPT, 3))
    h.run()
    again = h.add(generate("again", PROMPT, 3))
    assert shape(h.step()) == [("again", 2)]
    h.run()
    assert again.token_ids == first.token_ids
    assert (first.num_cached_prompt_tokens, again.num_cached_prompt_tokens) == (0, 8)
    assert again.timings().cached_prompt_token_count == 8


def test_running_sequences_share_blocks_and_take_no_more_room() -> None:
    h = Harness(num_blocks=6)
    h.add(generate("first", PROMPT, 20))
    h.step()
    num_free = h.blocks.num_free
    second = h.add(generate("second", [*PROMPT[:8], 77], 2))
    h.step()
    assert h.blocks.num_free == num_free - 1
    assert [h.blocks.num_holders(b) for b in second.block_table] == [2, 2, 1]
    h.scheduler.cancel("first")
    assert [h.blocks.num_holders(b) for b in second.block_table] == [1, 1, 1]
    h.run()
    assert second.token_ids == expected_tokens([*PROMPT[:8], 77], 2)


def test_an_answer_is_known_to_the_next_turn() -> None:
    h = Harness()
    first = h.add(generate("first", PROMPT, 8))
    h.run()
    # The last token of the answer was never fed to the model.
    turn = h.add(generate("second", [*first.token_ids, 50, 51], 1))
    h.run()
    assert turn.num_cached_prompt_tokens == (len(first.token_ids) - 1) // BLOCK_SIZE * BLOCK_SIZE


@pytest.mark.parametrize("length", [4, 5, 8])
def test_the_last_token_is_always_computed(length: int) -> None:
    h = Harness()
    for name in ("first", "again"):
        sequence = h.add(generate(name, PROMPT[:length], 1))
        h.run()
        assert sequence.token_ids == expected_tokens(PROMPT[:length], 1)
    assert sequence.num_cached_prompt_tokens == (length - 1) // BLOCK_SIZE * BLOCK_SIZE


def test_classification_uses_what_generation_computed_and_the_other_way_round() -> None:
    h = Harness()
    h.add(generate("generated", PROMPT[:9], 1))
    h.run()
    text = h.add(classify("text", PROMPT))
    h.run()
    assert (text.num_cached_prompt_tokens, text.scores) == (8, [[9.0]])
    tokens = h.add(classify("tokens", [*PROMPT, 11, 12], per_token=True))
    h.run()
    assert tokens.num_cached_prompt_tokens == 0, "every row is wanted"
    assert tokens.scores == [[float(i)] for i in range(12)]
    generated = h.add(generate("again", [*PROMPT, 11, 12, 13], 1))
    h.run()
    assert generated.num_cached_prompt_tokens == 12


def test_pooling_an_earlier_token_computes_it() -> None:
    h = Harness()
    h.add(generate("generated", PROMPT, 1))
    h.run()
    text = Sequence(classify("text", PROMPT), pooled_idx=5)
    h.scheduler.add(text)
    h.run()
    assert (text.num_cached_prompt_tokens, text.scores) == (4, [[5.0]])


@pytest.mark.parametrize(
    ("first", "second", "is_shared"),
    [
        ({}, {}, True),
        ({"tenant": "a"}, {"tenant": "a"}, True),
        ({"tenant": "a"}, {"tenant": "b"}, False),
        ({"tenant": "a"}, {}, False),
        ({"cache_salt": "s"}, {"cache_salt": "s"}, True),
        ({"cache_salt": "s"}, {"cache_salt": "t"}, False),
        ({"cache_salt": "s"}, {}, False),
        ({"cache_salt": "s", "tenant": "a"}, {"cache_salt": "s", "tenant": "b"}, True),
        ({"cache_salt": "a"}, {"tenant": "a"}, False),
        ({"cache_salt": "\ud800"}, {"cache_salt": "\ud801"}, False),
        ({"model": "one"}, {"model": "two"}, False),
        ({"model": "one', 0, 'salt:s"}, {"model": "one", "cache_salt": "s"}, False),
    ],
)
def test_only_equal_salts_or_tenants_of_one_model_share(
    first: dict[str, str], second: dict[str, str], is_shared: bool
) -> None:
    h = Harness()
    h.add(generate("first", PROMPT, 1, **first))
    h.run()
    sequence = h.add(generate("second", PROMPT, 1, **second))
    h.run()
    assert sequence.num_cached_prompt_tokens == (8 if is_shared else 0)


def test_the_two_factor_sets_share_nothing() -> None:
    h = Harness(original_len=10)
    h.add(generate("short", PROMPT, 1))
    h.run()
    longer = h.add(generate("long", [*PROMPT, 11], 1))
    h.run()
    assert longer.num_cached_prompt_tokens == 0
    again = h.add(generate("again", [*PROMPT, 12], 1))
    h.run()
    assert again.num_cached_prompt_tokens == 8


def test_crossing_finds_what_another_has_computed_with_the_long_factors() -> None:
    h = Harness(original_len=10)
    h.add(generate("long", [*PROMPT, 11], 1))
    h.run()
    crossing = h.add(generate("crossing", PROMPT[:9], 6))
    h.step()
    h.step()
    assert (crossing.num_tokens, crossing.num_computed) == (11, 0)
    assert shape(h.step()) == [("crossing", 3)], "two blocks of four were known"
    h.run()
    assert crossing.token_ids == expected_tokens(PROMPT[:9], 6, original_len=10)
    assert crossing.num_cached_prompt_tokens == 0, "of the prompt, when it came"


def test_a_crossing_leaves_shared_blocks_to_their_other_holders() -> None:
    h = Harness(num_blocks=5, original_len=10, context_len=16)
    first = h.add(generate("first", PROMPT[:8], 4))
    h.step()
    second = h.add(generate("second", [*PROMPT[:8], 5], 6))
    h.run()
    assert first.token_ids == expected_tokens(PROMPT[:8], 4, original_len=10)
    assert second.token_ids == expected_tokens([*PROMPT[:8], 5], 6, original_len=10)


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    h = Harness(num_blocks=8, context_len=32)
    old = h.add(generate("old", [1, 2, 3], 17))
    new = h.add(generate("new", [5, 6, 7, 8, 9], 14))
    num_computed = 0
    while h.scheduler.has_work:
        batch = h.step()
        num_computed += batch.num_tokens
    assert new.num_preemptions > 0
    num_once = old.num_tokens - 1 + new.num_tokens - 1
    assert num_computed < num_once + BLOCK_SIZE * 2, "not from the first token"
    assert new.token_ids == expected_tokens([5, 6, 7, 8, 9], 14)


def test_a_full_pool_forgets_what_was_used_longest_ago() -> None:
    h = Harness(num_blocks=4)
    prompts = {"a": [1] * 5, "b": [2] * 5, "c": [3] * 5}
    for name in ("a", "b", "a2", "c"):
        h.add(generate(name, prompts[name[0]], 1))
        h.run()
    cached = {}
    for name in ("a", "b"):
        sequence = h.add(generate(name, prompts[name], 1))
        h.run()
        cached[name] = sequence.num_cached_prompt_tokens
    assert cached == {"a": 4, "b": 4}
    h.add(generate("big", [9] * 13, 1))
    h.run()
    sequence = h.add(generate("a", prompts["a"], 1))
    h.run()
    assert sequence.num_cached_prompt_tokens == 0


def test_switched_off_nothing_is_found_and_nothing_kept() -> None:
    h = Harness(prefix_cache=False)
    for name in ("first", "again"):
        sequence = h.add(generate(name, PROMPT, 4))
        h.run()
        assert sequence.num_cached_prompt_tokens == 0
    assert h.blocks.num_cached == 0


def test_keys_differ_between_processes() -> None:
    """The hash's key is random: what collides, or is found, cannot be told beforehand."""
    sequence = Sequence(generate("a", PROMPT, 1))
    keys = set()
    for _ in range(2):
        blocks = BlockManager(4, BLOCK_SIZE)
        sequence.prefix_chain.clear()
        sequence.block_table.extend(blocks.allocate(3))
        sequence.num_computed, sequence.num_kept_blocks = 8, 0
        PrefixCache(blocks, is_enabled=True).keep(sequence)
        keys.update(key for key, _ in sequence.prefix_chain)
        del sequence.block_table[:]
    assert len(keys) == 4
    assert {len(key) for key in keys} == {16}
