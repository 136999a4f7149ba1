"""Hostile inputs and outputs: misaligned rows, poisoned buffers, scattered pages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import reference
from compare import ulp
from devices import DEVICE
from phi3svc import ops
from reference import Quantized

NUM_ROWS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33]
"""Row counts around every row block a GEMM might use."""

_POISON_INT = 0x7BADBADB
_POISON_BYTE = 0x7B
_CANARY = 12.0  # exact in any dtype


def randn(*shape: int, dtype: torch.dtype = torch.float32, std: float = 1.0) -> Tensor:
    """The same numbers on every device."""
    return (torch.randn(*shape, device="cpu") * std).to(dtype).to(DEVICE)


def i32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """An output buffer whose old contents would spoil any result they leaked into."""
    poison = _POISON_BYTE if dtype == torch.int8 else _POISON_INT
    return torch.full(shape, math.nan if dtype.is_floating_point else poison, dtype=dtype)


def misaligned(rows: Tensor) -> Tensor:
    """The same rows, at an odd element offset and three elements too far apart, NaN between."""
    num_rows, width = rows.shape
    storage = torch.full((1 + num_rows * (width + 3),), math.nan, dtype=rows.dtype)
    view = storage[1:].view(num_rows, width + 3)[:, :width]
    view.copy_(rows)
    return view


class Guarded:
    """A contiguous, misaligned, poisoned output between canaries."""

    def __init__(self, *shape: int, dtype: torch.dtype, margin: int = 65) -> None:
        size = math.prod(shape)
        self._storage = torch.full((size + 2 * margin,), _CANARY, dtype=dtype)
        self._margin = margin
        self.out = self._storage[margin : margin + size].view(shape)
        self.out.copy_(poisoned(*shape, dtype=dtype))

    def checked(self) -> Tensor:
        """The output, once nothing around it was written."""
        margins = torch.cat([self._storage[: self._margin], self._storage[-self._margin :]])
        assert (margins == _CANARY).all(), "wrote outside of the output"
        return self.out


@dataclass(frozen=True)
class Paged:
    """The cached keys and values of some sequences, as `ops.attention` takes them."""

    k_pages: Tensor
    v_pages: Tensor
    block_tables: Tensor  # i32 [B, M]
    context_lens: Tensor  # i32 [B]
    k_scales: Tensor | None = None
    v_scales: Tensor | None = None


def paginate(
    keys: list[Tensor],
    values: list[Tensor],
    visible: list[Tensor] | None = None,
    num_spare_pages: int = 3,
) -> Paged:
    """Scatter each sequence's keys and values [n, K, D] over pages with random ids.

    Everything that no query may see is poison: the tails of last pages, spare pages, and what
    `visible`, bool [n, K], leaves out. Table entries that nothing should read are garbage.
    """
    parts = [torch.stack(pair) for pair in zip(keys, values, strict=True)]
    (pages,), block_tables = _scatter([parts], visible, num_spare_pages)
    return Paged(
        reference.to_k_pages(pages[0]),
        reference.to_v_pages(pages[1]),
        block_tables,
        i32(*map(len, keys)),
    )


def paginate_quantized(
    keys: list[Quantized],
    values: list[Quantized],
    visible: list[Tensor] | None = None,
    num_spare_pages: int = 3,
) -> Paged:
    """As `paginate` for stored numbers [n, K, D] and their scales [n, K]."""
    pairs = list(zip(keys, values, strict=True))
    stored = [torch.stack([k.stored, v.stored]) for k, v in pairs]
    scales = [torch.stack([k.scales, v.scales]) for k, v in pairs]
    (pages, scale_pages), block_tables = _scatter([stored, scales], visible, num_spare_pages)
    return Paged(
        reference.to_k_pages(pages[0]),
        reference.to_v_pages(pages[1]),
        block_tables,
        i32(*(len(k.stored) for k in keys)),
        reference.to_scale_pages(scale_pages[0]),
        reference.to_scale_pages(scale_pages[1]),
    )


def _scatter(
    parts: list[list[Tensor]], visible: list[Tensor] | None, num_spare_pages: int
) -> tuple[list[Tensor], Tensor]:
    """Of each part, [2, n, ...] for every sequence: pages [2, N, P, ...]. And the block tables."""
    lens = [sequence.shape[1] for sequence in parts[0]]
    visible = visible or [torch.ones(part.shape[1:3], dtype=torch.bool) for part in parts[0]]
    page_size = reference.PAGE_SIZE
    num_pages = [-(-n // page_size) for n in lens]
    total = sum(num_pages) + num_spare_pages
    logical = [
        poisoned(2, total * page_size, *part[0].shape[2:], dtype=part[0].dtype) for part in parts
    ]
    ids = torch.randperm(total, dtype=torch.int32)
    garbage = torch.tensor([-1, 2**31 - 1, -(2**31), total], dtype=torch.int32)
    block_tables = garbage.repeat(len(lens), max(num_pages, default=0) + 2)
    block_tables = block_tables[:, : max(num_pages, default=0) + 2].contiguous()
    used = 0
    for i, (row, seen, pages) in enumerate(zip(block_tables, visible, num_pages, strict=True)):
        own = ids[used : used + pages]
        used += pages
        key, head = seen.nonzero(as_tuple=True)
        seen_pages = (key // page_size).unique()
        row[seen_pages] = own[seen_pages]
        slots = slots_of(own, key).long()
        for pages_of, part in zip(logical, parts, strict=True):
            pages_of[:, slots, head] = part[i][:, key, head]
    return [pages_of.unflatten(1, (total, page_size)) for pages_of in logical], block_tables


def seen_keys(
    num_keys: int,
    num_queries: int,
    num_heads: int,
    num_kv_heads: int,
    window: int,
    block_sparse: ops.BlockSparse | None = None,
) -> Tensor:
    """Which keys of a kv head its query heads see from any query: bool [n, K]."""
    seen = reference.visible(num_keys, num_queries, num_heads, window, block_sparse)
    return seen.any(1).unflatten(0, (num_kv_heads, -1)).any(1).T


def slots_of(page_ids: Tensor, positions: Tensor) -> Tensor:
    """Slots (page·P + offset), int32, of the tokens at `positions` of a sequence on `page_ids`."""
    pages = page_ids[positions // reference.PAGE_SIZE]
    return (pages * reference.PAGE_SIZE + positions % reference.PAGE_SIZE).int()


def starts_of(lens: list[int]) -> Tensor:
    """query_starts, int32 [B+1]."""
    return i32(0, *torch.tensor(lens).cumsum(0).tolist())


# Workspaces --------------------------------------------------------------------------------------


def attention_workspace(q: Tensor, block_tables: Tensor, num_queries: int = 0) -> Tensor | None:
    """What `ops.attention` wants on the device of `q`, for so many queries at a time or all."""
    if ops.backend(q.device) == "cpu":
        return None
    num_queries = num_queries or max(1, len(q))
    size = ops.attention_workspace_bytes(num_queries, *q.shape[1:], block_tables.shape[1])
    return torch.zeros(size, dtype=torch.uint8)


def sample_workspace(logits: Tensor) -> Tensor | None:
    """What `ops.sample` wants on the device of `logits`."""
    if ops.backend(logits.device) == "cpu":
        return None
    return torch.zeros(ops.sample_workspace_bytes(*logits.shape), dtype=torch.uint8)


# Error bounds ------------------------------------------------------------------------------------


def rounding(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """What one rounding to `dtype` may cost, and a little for the float32 error that tips a tie."""
    return 0.501 * ulp(exact, dtype)


def dot_bound(x: Tensor, weight: Tensor) -> Tensor:
    """Bound on the error of float32 dot products x · w over k terms: [T, k], [n, k] → [T, n].

    The worst case is k·u·Σ|x||w| with u = 2^-24 (Higham 2002, §3.1); independent roundings grow
    with √k, and eight standard deviations are allowed.
    """
    num_terms = x.shape[-1]
    magnitude = x.double().abs() @ weight.double().abs().T
    return 2.0**-24 * min(num_terms + 2, 8 * math.sqrt(num_terms) + 2) * magnitude + 1e-40
