"""Runs a call's new tokens through the network, step by step, over the cache of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from phi3svc.api.cache import Phi3Cache
from phi3svc.api.cached_row import CachedRow
from phi3svc.api.memory import require_bytes
from phi3svc.api.rows import Batch
from phi3svc.api.turns import turn
from phi3svc.model.inputs import Chunk, ModelInput
from phi3svc.model.network import Network
from phi3svc.ops import PAGE_SIZE

_STEP_TOKENS = 2048  # bounds the workspaces, not the batch


@dataclass(frozen=True)
class Places:
    """Where new tokens are. at: int32 [n], rows of h; row_idx, column: [n], in the batch."""

    at: Tensor
    row_idx: Tensor
    column: Tensor

    def select(self, chosen: Tensor | slice) -> Places:
        """Those that `chosen`, bool [n] or a slice, says."""
        return Places(self.at[chosen], self.row_idx[chosen], self.column[chosen])

    def split(self, num_tokens: int) -> Iterator[Places]:
        """Parts of at most `num_tokens` tokens."""
        for start in range(0, len(self.at), num_tokens):
            yield self.select(slice(start, start + num_tokens))


class HiddenStates:
    """Collects L + 1 `states`, [B, S, E] in the model's dtype, zeros at padding; see `outputs`."""

    def __init__(self, network: Network, shape: tuple[int, int]) -> None:
        num_states, size = network.config.num_hidden_layers + 1, network.config.hidden_size
        require_bytes(
            "output_hidden_states",
            num_states * shape[0] * shape[1] * size * network.dtype.itemsize,
            f"{num_states} hidden states of {shape[0]} x {shape[1]} tokens",
            network.device,
        )
        self.states = tuple(
            torch.zeros(*shape, size, dtype=network.dtype, device=network.device)
            for _ in range(num_states)
        )
        self._network = network

    def take(self, num_layers: int, h: Tensor, places: Places) -> None:
        """Keep what `num_layers` layers made of new tokens; the last one through the final norm."""
        found = h[places.at]
        if num_layers == len(self.states) - 1:
            found = self._network.last_hidden_state(found)
        self.states[num_layers][places.row_idx, places.column] = found.to(self._network.dtype)


def run(
    network: Network, cache: Phi3Cache, batch: Batch, hidden: HiddenStates | None = None
) -> Iterator[tuple[Tensor, Places]]:
    """Compute the batch's tokens, at most `_STEP_TOKENS` at a time, and add them to the cache.

    Gives h, float32 [T, E], of each step, good until the next one, and where in it new tokens are.
    Rows whose factor set has changed are computed again from their first token on. The cache has
    grown once the last step was taken. From the first step to the last it is this thread's turn at
    the network: what is made of h may be computed by it, too.
    """
    columns: dict[int, list[int]] = {row_idx: [] for row_idx in range(cache.batch_size)}
    columns |= {new.row_idx: new.columns for new in batch.rows}
    with turn(network):
        cache.extend(batch)  # which may copy its pages
        for spans in _steps([range(row.num_computed, len(row)) for row in cache.rows]):
            places = _places(spans, cache.rows, columns)
            h = _compute(network, cache, spans, places, hidden)
            if len(places.at):  # else it was all computed before, with other factors
                yield h, places
    cache.commit(batch)


def _compute(
    network: Network,
    cache: Phi3Cache,
    spans: Sequence[tuple[int, range]],
    places: Places,
    hidden: HiddenStates | None,
) -> Tensor:
    rows = [(cache.rows[row_idx], span) for row_idx, span in spans]
    inputs = ModelInput.pack(
        [
            Chunk(
                token_ids=row.token_ids[span.start : span.stop],
                start=span.start,
                rope_set=row.rope_set,
                pages=row.pages[: -(-span.stop // PAGE_SIZE)],
                positions=row.positions[span.start : span.stop],
            )
            for row, span in rows
        ]
    )
    embeddings = None
    if any(row.is_embedded(span) for row, span in rows):
        embeddings = torch.cat([row.embed(span, network) for row, span in rows])
    if embeddings is None and hidden is None:
        return network.forward(inputs, cache.kv)
    network.prepare(inputs.num_positions)
    on_layer = None if hidden is None or not len(places.at) else partial(hidden.take, places=places)
    return network.compute(inputs.on(network.device), cache.kv, embeddings, on_layer)


def _places(
    spans: Sequence[tuple[int, range]],
    rows: Sequence[CachedRow],
    columns: Mapping[int, Sequence[int]],
) -> Places:
    """Where in a step's spans there are new tokens. columns: of each row's new ones."""
    at: list[int] = []
    row_idxs: list[int] = []
    new_columns: list[int] = []
    first = 0
    for row_idx, span in spans:
        num_old = len(rows[row_idx]) - len(columns[row_idx])
        new = range(max(num_old, span.start), max(num_old, span.stop))
        at += range(first + new.start - span.start, first + new.stop - span.start)
        row_idxs += [row_idx] * len(new)
        new_columns += columns[row_idx][new.start - num_old : new.stop - num_old]
        first += len(span)
    return Places(
        torch.tensor(at, dtype=torch.int32),
        torch.tensor(row_idxs, dtype=torch.long),
        torch.tensor(new_columns, dtype=torch.long),
    )


def _steps(spans: Sequence[range]) -> Iterator[list[tuple[int, range]]]:
    """Cut the rows' spans, in order, into steps of at most `_STEP_TOKENS` tokens."""
    step: list[tuple[int, range]] = []
    room = _STEP_TOKENS
    for row_idx, span in enumerate(spans):
        start = span.start
        while start < span.stop:
            stop = min(start + room, span.stop)
            step.append((row_idx, range(start, stop)))
            room -= stop - start
            start = stop
            if not room:
                yield step
                step, room = [], _STEP_TOKENS
    if step:
        yield step
