"""The comparisons themselves: they must fail when they should, and say where."""

from __future__ import annotations

import math

import pytest
import torch

from compare import assert_accurate, assert_bitwise_equal, assert_close, ulp


def test_assert_close_names_the_worst_element() -> None:
    expected = torch.ones(2, 3)
    actual = expected.clone()
    actual[0, 1], actual[1, 2] = 1.1, 1.5
    with pytest.raises(AssertionError, match=r"2 of 6 elements differ; worst at \[1, 2\]: 1\.5"):
        assert_close(actual, expected, atol=0.05)
    assert_close(actual, expected, atol=0.51)
    assert_close(actual, expected, rtol=0.51)


def test_assert_close_weighs_errors_by_their_bounds() -> None:
    with pytest.raises(AssertionError, match=r"worst at \[0\]"):
        assert_close(torch.tensor([1.1, 9.0]), torch.ones(2), atol=torch.tensor([0.01, 7.0]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_assert_close_wants_specials_in_the_same_places(value: float) -> None:
    special, plain = torch.tensor([1.0, value]), torch.tensor([1.0, 2.0])
    assert_close(special, special.clone())
    for pair in ((special, plain), (plain, special)):
        with pytest.raises(AssertionError, match=r"differs at \[1\]"):
            assert_close(*pair, atol=math.inf)


def test_assert_close_tells_infinities_apart() -> None:
    with pytest.raises(AssertionError, match="sign of inf"):
        assert_close(torch.tensor([math.inf]), torch.tensor([-math.inf]))


def test_assert_close_compares_shapes() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.ones(2), torch.ones(1))


def test_assert_accurate_allows_twice_the_naive_error() -> None:
    exact = torch.tensor([1.0], dtype=torch.float64)
    naive = torch.tensor([1.125], dtype=torch.bfloat16)
    assert_accurate(torch.tensor([1.25], dtype=torch.bfloat16), exact, naive)
    with pytest.raises(AssertionError):
        assert_accurate(torch.tensor([1.28125], dtype=torch.bfloat16), exact, naive)


@pytest.mark.parametrize(
    ("a", "b"), [(0.0, -0.0), (1.0, 1.0 + 2**-23)], ids=["sign of zero", "last bit"]
)
def test_assert_bitwise_equal_tells_the_last_bit(a: float, b: float) -> None:
    same = torch.tensor([[a, math.nan]])
    assert_bitwise_equal(same, same.clone())
    with pytest.raises(AssertionError, match=r"1 elements differ, first at \[0, 0\]"):
        assert_bitwise_equal(same, torch.tensor([[b, math.nan]]))


def test_assert_bitwise_equal_compares_dtypes() -> None:
    with pytest.raises(AssertionError, match="dtype"):
        assert_bitwise_equal(torch.ones(1), torch.ones(1, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ulp_is_the_distance_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, 1.99, 2.0, 0.75, 1000.0], dtype=dtype)
    bits = values.view(torch.int32 if dtype == torch.float32 else torch.int16)
    assert torch.equal(ulp(values, dtype), (bits + 1).view(dtype).double() - values.double())
