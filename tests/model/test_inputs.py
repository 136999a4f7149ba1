"""Shapes that come back: rows that stand for no sequence, and tables that grow by doubling."""

from __future__ import annotations

import pytest
import torch

from phi3svc import ops
from phi3svc.model.inputs import Chunk, InputShape, ModelInput, rounded_rows
from phi3svc.ops import PAGE_SIZE


def decoding(num_sequences: int, start: int = 20) -> list[Chunk]:
    """The token at place `start` of each of some sequences."""
    num_pages = -(-(start + 1) // PAGE_SIZE)
    return [
        Chunk([7 + i], start, i % 2, range(num_pages * i, num_pages * (i + 1)))
        for i in range(num_sequences)
    ]


@pytest.mark.parametrize(
    ("num_rows", "rounded"),
    [(1, 1), (16, 16), (17, 24), (24, 24), (65, 96), (129, 192), (256, 256), (257, 384)],
)
def test_rows_are_rounded_up(num_rows: int, rounded: int) -> None:
    assert rounded_rows(num_rows) == rounded


@pytest.mark.parametrize(
    ("num_pages", "table_len"), [(1, 8), (8, 8), (9, 16), (17, 32), (64, 64), (65, 128)]
)
def test_tables_grow_by_doubling(num_pages: int, table_len: int) -> None:
    chunk = Chunk([1], num_pages * PAGE_SIZE - 1, 0, range(num_pages))
    inputs = ModelInput.pack([chunk], is_rounded=True)
    assert inputs.shape.table_len == table_len
    assert inputs.block_tables[0, :num_pages].tolist() == list(range(num_pages))


def test_rows_behind_the_sequences_stand_for_none() -> None:
    exact = ModelInput.pack(decoding(17))
    inputs = ModelInput.pack(decoding(17), is_rounded=True)
    assert inputs.shape == InputShape(24, 24, 8)
    assert inputs.num_positions == exact.num_positions
    for name in ("token_ids", "positions", "rope_sets", "slots", "context_lens", "block_tables"):
        assert getattr(inputs, name)[:17].equal(getattr(exact, name)), name
    assert inputs.slots[17:].eq(-1).all()
    assert inputs.context_lens[17:].eq(0).all()
    assert inputs.query_starts.tolist() == list(range(25))


def test_prompts_have_no_such_rows() -> None:
    chunks = [Chunk([1, 2], 0, 0, [0]), *decoding(17)]
    assert ModelInput.pack(chunks, is_rounded=True).shape == InputShape(19, 18, 8)


def test_the_next_step_leaves_them_as_they_are() -> None:
    before = ModelInput.pack(decoding(17, start=30), is_rounded=True)
    tables = [[2 * i, 2 * i + 1, 100 + i] for i in range(17)]
    inputs = ModelInput(before.shape)
    for start in (31, 32, 33):
        inputs.go_on_from(before, tables)
        expected = ModelInput.pack(
            [Chunk([0], start, i % 2, tables[i]) for i in range(17)], is_rounded=True
        )
        for name in ("positions", "slots", "context_lens", "query_starts", "rope_sets"):
            assert getattr(inputs, name).equal(getattr(expected, name)), (name, start)
        num_pages = start // PAGE_SIZE + 1
        used = [t.block_tables[:17, :num_pages] for t in (inputs, expected)]
        assert used[0].equal(used[1])
        before, inputs = inputs, before


def test_ops_of_a_device_see_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "backend", lambda device: "cuda")
    packed = ModelInput.pack(decoding(2))
    inputs = ModelInput(packed.shape, device=torch.device("cpu"))
    inputs.take(packed)
    assert not inputs.data.any()
    inputs.send(0, 2)  # the tokens
    assert inputs.token_ids.equal(packed.token_ids)
    assert not inputs.positions.any()
    inputs.send(2)
    assert inputs.data.equal(packed.data)
    moved = packed.on(torch.device("cpu"))
    assert moved is not packed
    assert moved.data.equal(packed.data)


@pytest.mark.cpu_only
def test_on_a_cpu_there_is_nothing_to_send() -> None:
    packed = ModelInput.pack(decoding(2))
    inputs = ModelInput(packed.shape, device=torch.device("cpu"))
    inputs.take(packed)
    assert inputs.data.equal(packed.data)
    assert packed.on(torch.device("cpu")) is packed
