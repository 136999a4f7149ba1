"""Guesses from a sequence's own past."""

from __future__ import annotations

import pytest

from phi3svc.engine.drafter import Drafter


def guess(token_ids: list[int], max_tokens: int = 8, *, length: int = 8) -> list[int]:
    drafter = Drafter()
    drafter.length = length
    return drafter.guess(token_ids, max_tokens)


def test_goes_on_as_the_text_did_the_last_time() -> None:
    assert guess([1, 2, 3, 4, 5, 9, 1, 2, 3], 3) == [4, 5, 9]


def test_the_latest_place_counts() -> None:
    assert guess([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 1) == [8]


def test_a_longer_match_counts_more_than_a_later_one() -> None:
    assert guess([5, 1, 2, 7, 9, 1, 2, 8, 5, 1, 2], 1) == [7]


def test_two_tokens_are_enough() -> None:
    assert guess([1, 2, 7, 9, 1, 2], 2) == [7, 9]


@pytest.mark.parametrize("token_ids", [[], [1], [1, 2], [1, 2, 3, 4], [1, 2, 3, 2, 1]])
def test_no_guess_without_a_match(token_ids: list[int]) -> None:
    assert guess(token_ids) == []


def test_a_loop_goes_on_beyond_what_is_there() -> None:
    assert guess([9, 1, 2, 3, 1, 2, 3, 1, 2], 8) == [3, 1, 2, 3, 1, 2, 3, 1]
    assert guess([4, 4, 4], 5) == [4] * 5


def test_bytes_that_match_across_tokens_are_no_match() -> None:
    # 0x00000100 0x00000100 holds the bytes of 0x00010000 shifted; ids chosen to overlap.
    assert guess([256, 256, 256, 9, 1, 65536, 65536]) == []
    assert guess([7, 8, 5, 256, 256, 256, 9, 7, 8], 1) == [5]


def test_tokens_may_come_one_by_one() -> None:
    drafter = Drafter()
    token_ids = [1, 2, 3, 4]
    for token_id in (9, 1, 2):
        token_ids.append(token_id)
        found = drafter.guess(token_ids, 2)
    assert found == [3, 4]


def test_misses_make_it_wait_a_little_and_a_match_ends_that() -> None:
    drafter = Drafter()
    token_ids = list(range(100))
    waits = []
    for _ in range(6):
        assert drafter.guess(token_ids, 4) == []
        num_tokens = len(token_ids)
        waits.append(next(i for i in range(1, 99) if not drafter.is_resting(num_tokens + i)))
        token_ids += range(len(token_ids), len(token_ids) + waits[-1])
    assert waits == [1, 2, 3, 4, 4, 4]
    assert drafter.guess([*token_ids, 10, 11], 1) == [12]
    assert not drafter.is_resting(len(token_ids) + 2)


def test_length_follows_what_was_right() -> None:
    drafter = Drafter()
    assert drafter.length == 8
    drafter.learn(8, 6, max_length=16)
    assert drafter.length == 7
    drafter.learn(7, 7, max_length=16)
    drafter.learn(14, 14, max_length=16)
    assert drafter.length == 16
    drafter.learn(16, 0, max_length=16)
    assert drafter.length == 4
    assert (drafter.num_drafted, drafter.num_accepted) == (45, 27)


def test_rests_double_until_a_guess_is_right() -> None:
    drafter = Drafter()
    ends = []
    for _ in range(6):
        drafter.rest(0)
        ends.append(next(i for i in range(10_000) if not drafter.is_resting(i)))
    assert ends == [16, 32, 64, 128, 256, 256]
    drafter.learn(2, 2, max_length=8)
    drafter.rest(0)
    assert drafter.is_resting(15)
    assert not drafter.is_resting(16)
