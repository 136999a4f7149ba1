"""A row's bits depend on its own sequence alone: not on chunks, neighbours or pages."""

from __future__ import annotations

import pytest
import torch

from phi3svc.model.inputs import Chunk, ModelInput
from phi3svc.model.network import Network
from tests.model.conftest import DTYPES, MakeCheckpoint
from tests.model.decoding import Pages, prefill, random_ids
from tests.networks import load_network


@pytest.fixture(params=DTYPES)
def network(request: pytest.FixtureRequest, checkpoint: MakeCheckpoint) -> Network:
    return load_network(checkpoint(original=32, sliding_window=21), request.param)


def test_mixed_batch_equals_each_alone(network: Network) -> None:
    """Short and long factor sets, and sequences of one token, in one step."""
    sequences = [random_ids(n, seed=n) for n in (10, 40, 32, 1, 33, 3)]
    pages = Pages(network, 32, seed=5)
    chunks = [
        Chunk(ids, 0, network.config.rope_set(len(ids)), pages.take(len(ids))) for ids in sequences
    ]
    h = network.forward(ModelInput.pack(chunks), pages.kv).clone()
    parts = h.split([len(ids) for ids in sequences])
    for ids, part in zip(sequences, parts, strict=True):
        assert part.equal(prefill(network, ids))
    rows = torch.arange(len(h), dtype=torch.int32)
    all_rows = network.logits(h, rows).clone()
    assert torch.isfinite(all_rows).all()
    for row in (0, 12, len(h) - 1):
        assert network.logits(h, rows[row : row + 1])[0].equal(all_rows[row])


@pytest.mark.parametrize("chunk_len", [1, 7, 16, 17, 49])
@pytest.mark.parametrize("num_tokens", [32, 50])
def test_chunked_prefill_equals_one_shot(network: Network, chunk_len: int, num_tokens: int) -> None:
    ids = random_ids(num_tokens)
    assert prefill(network, ids, chunk_len=chunk_len, seed=3).equal(prefill(network, ids))


def test_decoding_beside_a_prefill_equals_one_shot(network: Network) -> None:
    """One sequence's second half rides with another's prompt, as in a scheduler's step."""
    first, second = random_ids(24, seed=1), random_ids(45, seed=2)
    pages = Pages(network, 16, seed=7)
    first_table, second_table = pages.take(24), pages.take(45)
    short, long = network.config.rope_set(24), network.config.rope_set(45)
    network.forward(ModelInput.pack([Chunk(first[:23], 0, short, first_table)]), pages.kv)
    step = [Chunk(first[23:], 23, short, first_table), Chunk(second, 0, long, second_table)]
    h = network.forward(ModelInput.pack(step), pages.kv).clone()
    assert h[:1].equal(prefill(network, first)[23:])
    assert h[1:].equal(prefill(network, second))


def test_growing_the_rope_table_keeps_its_bits(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint(original=32)
    grown, at_once = load_network(path).rope, load_network(path).rope
    for num_positions in (1, 256, 257, 1000, 5000):
        grown.ensure(num_positions)
    at_once.ensure(5000)
    num_positions = min(grown.table.shape[1], at_once.table.shape[1])
    assert num_positions >= 5000
    assert grown.table[:, :num_positions].equal(at_once.table[:, :num_positions])
