"""Keys and values of a batch between calls: what `past_key_values` is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from phi3svc.api.cached_row import CachedRow
from phi3svc.api.page_pool import PagePool
from phi3svc.api.rows import Batch, Past, check_window
from phi3svc.errors import InvalidRequest
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import Network

_FIELD = "past_key_values"


class Phi3Cache:
    """What `model(..., use_cache=True).past_key_values` is, for loops that decode by hand.

    A call with it adds its columns to it, as in transformers: the object that was passed in has
    grown, and is the one that is returned. A new one may be passed to the first call instead.

    Unlike transformers' caches it knows each row's tokens. A row that outgrows its LongRoPE factor
    set (or, cut, falls back into it) is computed again with the right one in the next call, while
    its neighbours go on; so a loop over single tokens, or over chunks of a prompt, gives at every
    step what a call with the whole sequence would give, bit for bit. transformers mixes keys of
    both sets there. And the mask of the past is remembered: a call without attention_mask still
    leaves the padding out, and one with another mask for the past is an error.
    """

    def __init__(self) -> None:
        self._network: Network | None = None
        self._pool: PagePool | None = None
        self._rows: list[CachedRow] = []
        self._mask = torch.empty(0, 0, dtype=torch.bool)  # of the past columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the past, padding included; the same in every layer."""
        return self._mask.shape[1]

    @property
    def batch_size(self) -> int:
        """Rows; 0 before the first call."""
        return len(self._rows)

    @property
    def mask(self) -> Tensor:
        """bool [B, past]: which columns are real tokens."""
        return self._mask

    @property
    def rows(self) -> Sequence[CachedRow]:
        return self._rows

    @property
    def kv(self) -> KVCache:
        """Where the rows' pages are. There once a call has begun."""
        assert self._pool is not None
        return self._pool.kv

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` columns; or, below zero, all but the last -max_length.

        Zero takes none away, as in transformers 5, which refuses what is above.
        """
        if max_length > 0:
            self._keep(max_length)
        else:
            self._keep(max(0, self.get_seq_length() + max_length))

    def reset(self) -> None:
        """Forget all columns."""
        self._keep(0)

    def batch_select_indices(self, indices: Tensor | Sequence[int]) -> None:
        """Make the rows those at `indices`, which may leave out some and repeat others.

        Raises InvalidRequest if there is no such row, or the copies do not fit into memory.
        """
        chosen = torch.as_tensor(indices).flatten().tolist()
        for row_idx in chosen:
            if not 0 <= row_idx < len(self._rows):
                raise InvalidRequest.of("indices", f"{row_idx}: must be 0 to {len(self._rows) - 1}")
        repeats = list(chosen)
        for row_idx in set(chosen):
            repeats.remove(row_idx)
        if self._pool is not None:
            self._pool.reserve(sum(len(self._rows[row_idx].pages) for row_idx in repeats))
        rows: list[CachedRow] = []
        taken: set[int] = set()
        for row_idx in chosen:
            row = self._rows[row_idx]
            if row_idx in taken and self._pool is not None:
                row = row.copy(self._pool.copies(self._pool, row.pages))
            taken.add(row_idx)
            rows.append(row)
        for row_idx in set(range(len(self._rows))) - taken:
            self._cut(self._rows[row_idx], 0)
        self._rows, self._mask = rows, self._mask[chosen]

    def reorder_cache(self, beam_idx: Tensor | Sequence[int]) -> None:
        """What transformers calls `batch_select_indices` in a beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times, one behind the other."""
        self.batch_select_indices([i for i in range(len(self._rows)) for _ in range(repeats)])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A cache of its own and of the same model, so that one prompt's can serve many."""
        other = type(self)()
        other._network, other._mask = self._network, self._mask.clone()
        if self._network is not None and self._pool is not None:
            other._pool = PagePool(self._network)
            other._pool.reserve(sum(len(row.pages) for row in self._rows))
            for row in self._rows:
                other._rows.append(row.copy(other._pool.copies(self._pool, row.pages)))
        return other

    def begin(self, network: Network, num_rows: int) -> list[Past]:
        """What the rows hold, for a call with `num_rows` rows.

        Raises InvalidRequest if it is another model's, or has another number of rows.
        """
        if not self.get_seq_length():
            self._rows = [CachedRow() for _ in range(num_rows)]
            self._mask = torch.empty(num_rows, 0, dtype=torch.bool)
            self._network, self._pool = network, PagePool(network)
        if self._network is not network:
            raise InvalidRequest.of(_FIELD, "was computed by another model")
        if len(self._rows) != num_rows:
            raise InvalidRequest.of(_FIELD, f"has {len(self._rows)} rows; the batch has {num_rows}")
        past = []
        for row, mask in zip(self._rows, self._mask, strict=True):
            columns = torch.nonzero(mask)
            self._cut(row, len(columns))  # what a call added that did not end
            past.append(Past(int(columns[-1]), row.positions[-1]) if len(row) else Past(-1, -1))
        return past

    def extend(self, batch: Batch) -> None:
        """Add a batch's tokens to the rows, with pages, for them to be computed; then `commit`.

        What rows have computed is nothing where their factor set is another one now. Raises
        InvalidRequest where a row gets longer than the model allows, or all together than memory
        holds.
        """
        assert self._network is not None
        config = self._network.config
        check_window(config, torch.cat([self._mask, batch.mask], dim=1))
        for new in batch.rows:
            self._rows[new.row_idx].append(new)
        self._make_room(config.context_len)
        for row in self._rows:
            row.use_rope_set(config.rope_set(max(row.positions, default=-1) + 1))

    def commit(self, batch: Batch) -> None:
        """Count the batch's columns as past. Without it, the next call does not see them."""
        for row in self._rows:
            row.num_computed = len(row)
        self._mask = torch.cat([self._mask, batch.mask], dim=1)

    def _keep(self, num_columns: int) -> None:
        self._mask = self._mask[:, :num_columns].clone()
        for row, num_tokens in zip(self._rows, self._mask.sum(dim=1).tolist(), strict=True):
            self._cut(row, num_tokens)

    def _make_room(self, limit: int) -> None:
        for row_idx, row in enumerate(self._rows):
            num_positions = max(len(row), max(row.positions, default=-1) + 1)
            if num_positions > limit:
                raise InvalidRequest.of(
                    "input_ids",
                    f"row {row_idx} has {num_positions} positions; the model has {limit}",
                )
        assert self._pool is not None
        self._pool.reserve(sum(row.num_pages_missing for row in self._rows))
        for row in self._rows:
            row.pages += self._pool.take(row.num_pages_missing)

    def _cut(self, row: CachedRow, num_tokens: int) -> None:
        freed = row.cut(num_tokens)
        if self._pool is not None:
            self._pool.give_back(freed)
