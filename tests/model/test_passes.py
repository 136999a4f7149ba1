"""Recorded forward passes: no bit depends on which inputs one was recorded with."""

from __future__ import annotations

import gc
import random
import weakref

from phi3svc.model.inputs import Chunk, ModelInput
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.network import Network
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import Pages, prefill, random_ids
from tests.networks import load_network


def test_passes_are_run_again_on_other_inputs(checkpoint: MakeCheckpoint) -> None:
    """Sequences in random order and chunks: shapes come back, workspaces and the table grow."""
    path = checkpoint(original=32)
    network = load_network(path)
    generator = random.Random(0)
    pages = Pages(network, 200, seed=1)
    for length in (3, 19, 3, 60, 19, 300, 60, 300):
        ids = random_ids(length, seed=generator.randrange(100))
        table, chunk_len = pages.take(length), generator.choice([1, 3, 17])
        rope_set = network.config.rope_set(length)
        parts = []
        for start in range(0, length, chunk_len):
            chunk = Chunk(ids[start : start + chunk_len], start, rope_set, table)
            parts += network.forward(ModelInput.pack([chunk]), pages.kv).clone()
        expected = prefill(load_network(path), ids)  # a network that has recorded nothing yet
        assert all(part.equal(row) for part, row in zip(parts, expected, strict=True))


def test_each_cache_has_passes_of_its_own(checkpoint: MakeCheckpoint) -> None:
    network = load_network(checkpoint())
    ids = random_ids(5)
    pages = [Pages(network, 3, seed=seed) for seed in range(2)]
    inputs = [ModelInput.pack([Chunk(ids, 0, 0, p.take(5))]) for p in pages]
    first = network.forward(inputs[0], pages[0].kv).clone()
    assert network.forward(inputs[1], pages[1].kv).equal(first)
    for own, p in zip(inputs, pages, strict=True):
        k_pages = p.kv.layers[0][0]
        assert k_pages[int(own.block_tables[0, 0])].isfinite().any()


def test_a_cache_that_is_gone_takes_its_memory_along(checkpoint: MakeCheckpoint) -> None:
    network = load_network(checkpoint())

    def use(network: Network) -> list[weakref.ref[object]]:
        kv = KVCache(network.config, 1, network.dtype, network.device)
        network.forward(ModelInput.pack([Chunk([1, 2], 0, 0, [0])]), kv)
        return [weakref.ref(kv), weakref.ref(kv.layers[0][0])]

    refs = use(network)
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
