"""Streamed text against the library's `decode` of the finished list."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3svc.text.detokenizer import Detokenizer
from phi3svc.text.stop_strings import StopMatcher, StopStrings
from phi3svc.text.tokenizer import Tokenizer

TEXTS = st.one_of(
    st.text(max_size=30),
    st.text("ab \n▁é你👍🏽\u200d", max_size=30),
    st.text(" st.opT\n", max_size=30),
)


@st.composite
def id_lists(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    """Encoded text with random tokens in between, so that bytes are cut short and misplaced."""
    ids: list[int] = []
    any_id = st.integers(0, tokenizer.vocab_size + 20)  # a padded vocabulary has ids of no token
    byte_id = st.integers(3, 258)
    for _ in range(draw(st.integers(0, 4))):
        ids += tokenizer.encode(draw(TEXTS))
        if ids and draw(st.booleans()):
            ids = ids[: -draw(st.integers(1, 3))]
        ids += draw(st.lists(st.one_of(any_id, byte_id), max_size=4))
    return ids


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[slice]:
    points = sorted(draw(st.sets(st.integers(1, max(length, 1)), max_size=8)))
    bounds = [0, *(point for point in points if point < length), length]
    return [slice(a, b) for a, b in pairwise(bounds)]


def first_stop(text: str, stop_strings: list[str]) -> tuple[str, str] | None:
    """Text before the stop string that ends first, the longest of those; and that string."""
    found = [
        (start + len(stop), start, stop)
        for stop in stop_strings
        for start in range(len(text))
        if text.startswith(stop, start)
    ]
    if not found:
        return None
    _, start, stop = min(found)
    return text[:start], stop


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_streamed_text_is_the_decoded_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(id_lists(tokenizer))
    detokenizer = Detokenizer(tokenizer)
    text = ""
    for part in data.draw(cuts(len(ids))):
        output = detokenizer.push(ids[part])
        assert (output.stop_string, output.num_tokens) == (None, len(ids[part]))
        text += output.text
    assert text + detokenizer.finish() == tokenizer.decode(ids)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_delivered_text_is_never_taken_back(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(id_lists(tokenizer))
    at = data.draw(st.integers(0, len(ids)))
    text = Detokenizer(tokenizer).push(ids[:at]).text
    assert tokenizer.decode(ids).startswith(text)
    assert "\ufffd" not in text or "\ufffd" in tokenizer.decode(ids)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_stop_strings_end_the_text_as_soon_as_it_has_one(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(id_lists(tokenizer))
    whole = tokenizer.decode(ids)
    parts = st.integers(0, max(len(whole) - 1, 0)).flatmap(
        lambda start: st.integers(1, 6).map(lambda size: whole[start : start + size])
    )
    candidates = data.draw(st.lists(st.one_of(parts, st.text("ab \nstop", max_size=4)), max_size=6))
    stop_strings = [s for s in candidates if s and "\ufffd" not in s]

    expected_text, expected_stop, expected_len = whole, None, len(ids)
    for num_tokens in range(1, len(ids) + 1):
        if found := first_stop(tokenizer.decode(ids[:num_tokens]), stop_strings):
            (expected_text, expected_stop), expected_len = found, num_tokens
            break

    detokenizer = Detokenizer(tokenizer, stop_strings)
    text, stop, length = "", None, 0
    for part in data.draw(cuts(len(ids))):
        output = detokenizer.push(ids[part])
        text += output.text
        length += output.num_tokens
        if (stop := output.stop_string) is not None:
            break
    assert text + detokenizer.finish() == expected_text
    assert (stop, length) == (expected_stop, expected_len)


@settings(max_examples=200, deadline=None)
@given(text=st.text("abc", max_size=40), data=st.data())
def test_matcher_agrees_with_a_plain_search(text: str, data: st.DataObject) -> None:
    stop_strings = data.draw(st.lists(st.text("abc", min_size=1, max_size=5), max_size=8))
    matcher = StopMatcher(StopStrings(stop_strings))
    passed, stop = "", None
    for part in data.draw(cuts(len(text))):
        more, stop = matcher.push(text[part])
        passed += more
        if stop is not None:
            break
    else:
        passed += matcher.finish()
    assert (passed, stop) == (first_stop(text, stop_strings) or (text, None))


def test_characters_are_delivered_whole(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    pushes = [detokenizer.push([i]).text for i in tokenizer.encode("a 👍🏽 你 b")]
    assert "\ufffd" not in "".join(pushes)
    assert "".join(pushes) + detokenizer.finish() == "a 👍🏽 你 b"


def test_bytes_cut_short_become_replacement_characters_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("o𝄞")
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids[:-1]).text == "o"
    assert set(detokenizer.finish()) == {"\ufffd"}


def test_hopeless_bytes_do_not_wait(byte_fallback: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_fallback)
    first, continuation, newline = (3 + byte for byte in (0xE4, 0xBD, 0x0A))
    assert [detokenizer.push([i]).text for i in (first, continuation)] == ["", ""]
    assert detokenizer.push([newline]).text == "\ufffd" * 3
    assert detokenizer.push([newline]).text == "\ufffd"


def test_a_newline_stops_with_its_own_token(byte_fallback: Tokenizer) -> None:
    # As bytes, line ends wait for the next token; a stop string must not.
    ids = byte_fallback.encode("one\n\ntwo")
    at = ids.index(3 + 0x0A) + 1
    output = Detokenizer(byte_fallback, ["\n"]).push(ids)
    assert (output.text, output.stop_string, output.num_tokens) == ("one", "\n", at)
    output = Detokenizer(byte_fallback, ["\n\n"]).push(ids)
    assert (output.text, output.stop_string, output.num_tokens) == ("one", "\n\n", at + 1)


def test_text_that_may_become_a_stop_string_is_held_back(byte_level: Tokenizer) -> None:
    ids = [byte_level.encode(char)[0] for char in "ab##c###d"]
    detokenizer = Detokenizer(byte_level, ["###"])
    texts = [detokenizer.push([i]).text for i in ids[:7]]
    assert texts == ["a", "b", "", "", "##c", "", ""]
    output = detokenizer.push(ids[7:])
    assert (output.text, output.stop_string, output.num_tokens) == ("", "###", 1)
    assert detokenizer.finish() == ""
    with pytest.raises(ValueError, match="ended"):
        detokenizer.push(ids[:1])


def test_held_back_text_comes_at_the_end(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, ["###"])
    assert detokenizer.push(byte_level.encode("ab##")).text == "ab"
    assert detokenizer.finish() == "##"


def test_cost_of_a_token_does_not_grow(tokenizer: Tokenizer) -> None:
    # Every text here is one that waits as long as it can: bytes, and half of a stop string.
    stop = "\n" * 200 + "x"
    ids = [i for i in tokenizer.encode("\n" * 199 + "y") if i not in tokenizer.special_ids] * 100

    def seconds(num_tokens: int) -> float:
        detokenizer = Detokenizer(tokenizer, [stop])
        start = time.perf_counter()
        for i in ids[:num_tokens]:
            detokenizer.push([i])
        return time.perf_counter() - start

    short, long = (min(seconds(n) for _ in range(3)) for n in (len(ids) // 16, len(ids)))
    assert long < 16 * 4 * short
