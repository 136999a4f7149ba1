"""Comparisons that say where and by how much two tensors differ."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = {
    torch.float8_e4m3fn: torch.uint8,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def assert_close(
    actual: Tensor, expected: Tensor, atol: float | Tensor = 0.0, rtol: float = 0.0
) -> None:
    """|actual - expected| <= atol + rtol·|expected| everywhere, nan and inf in the same places.

    atol may be a tensor of bounds, one per element.
    """
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    actual, expected = actual.double(), expected.double()
    for name, places in (("nan", torch.isnan), ("inf", torch.isinf)):
        wrong = places(actual) != places(expected)
        assert not wrong.any(), f"{name} differs {_at(wrong, actual, expected)}"
    wrong = torch.isinf(expected) & (actual != expected)
    assert not wrong.any(), f"sign of inf differs {_at(wrong, actual, expected)}"

    finite = torch.isfinite(expected)
    difference = torch.where(finite, actual - expected, 0.0).abs()
    allowed = atol + rtol * torch.where(finite, expected, 0.0).abs()
    if (difference <= allowed).all():
        return
    ratio = torch.where(difference == 0, 0.0, difference / allowed)
    worst = _unravel(int(ratio.argmax()), ratio.shape)
    cosine = torch.cosine_similarity(
        torch.where(finite, actual, 0.0).flatten(),
        torch.where(finite, expected, 0.0).flatten(),
        dim=0,
    )
    bound = torch.broadcast_to(torch.as_tensor(allowed), difference.shape)[worst].item()
    raise AssertionError(
        f"{int((difference > allowed).sum())} of {difference.numel()} elements differ; worst at "
        f"{list(worst)}: {actual[worst].item():.9g}, expected {expected[worst].item():.9g}, "
        f"off by {difference[worst].item():.3g}, allowed {bound:.3g}; cosine {cosine.item():.9f}"
    )


def assert_accurate(actual: Tensor, exact: Tensor, naive: Tensor) -> None:
    """`actual` is within twice the worst error of `naive`, and one ulp of its own dtype.

    exact: float64; naive: the plain computation in the same dtype as `actual`.
    """
    worst_naive = (naive.double() - exact).abs().max() if exact.numel() else torch.tensor(0.0)
    assert_close(actual, exact, atol=2 * worst_naive + ulp(exact, actual.dtype))


def assert_bitwise_equal(actual: Tensor, expected: Tensor) -> None:
    """Same shape, dtype and bits; also tells -0 from 0 and one nan from another."""
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    bits = _BITS.get(actual.dtype, actual.dtype)
    wrong = actual.contiguous().view(bits) != expected.contiguous().view(bits)
    assert not wrong.any(), (
        f"{int(wrong.sum())} elements differ, first {_at(wrong, actual, expected)}"
    )


def ulp(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbours of `dtype` around each value of `exact`, float64."""
    _, exponent = torch.frexp(exact.double())
    epsilon = torch.full_like(exact, torch.finfo(dtype).eps, dtype=torch.float64)
    return torch.ldexp(epsilon, exponent - 1)


def _at(wrong: Tensor, actual: Tensor, expected: Tensor) -> str:
    first = _unravel(int(wrong.flatten().int().argmax()), wrong.shape)
    return f"at {list(first)}: {actual[first].item()!r}, expected {expected[first].item()!r}"


def _unravel(index: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(index), shape))
