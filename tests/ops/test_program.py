"""Programs: recorded calls do what the calls do, on what their tensors hold when they run."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from compare import assert_bitwise_equal
from op_tensors import i32, randn
from phi3svc import ops

HIDDEN, OUT, VOCAB = 48, 32, 100


class Calls:
    """Three ops in a row, from token ids to `out`."""

    def __init__(self, num_tokens: int) -> None:
        self.token_ids = torch.zeros(num_tokens, dtype=torch.int32)
        self.table = randn(VOCAB, HIDDEN)
        self.norm_weight = randn(HIDDEN)
        self.weight = ops.pack_linear(randn(OUT, HIDDEN))
        self.h, self.x = torch.zeros(num_tokens, HIDDEN), torch.zeros(num_tokens, HIDDEN)
        self.out = torch.zeros(num_tokens, OUT)

    def make(self) -> None:
        ops.embedding(self.token_ids, self.table, self.h)
        ops.rms_norm(self.h, self.norm_weight, 1e-5, self.x)
        ops.linear(self.x, self.weight, self.out)

    def recorded(self) -> ops.Program:
        program = ops.Program()
        with program:
            self.make()
        return program

    def result_of(self, make: Callable[[], None], token_ids: Tensor) -> Tensor:
        self.token_ids.copy_(token_ids)
        self.out.fill_(float("nan"))
        make()
        return self.out.clone()


def test_recording_runs_nothing_and_running_does_what_the_calls_do() -> None:
    calls = Calls(3)
    program = calls.recorded()
    assert len(program) == 3
    assert not calls.h.any()
    assert not calls.out.any()
    for token_ids in (i32(1, 2, 3), i32(99, 0, 7)):
        expected = calls.result_of(calls.make, token_ids)
        assert_bitwise_equal(calls.result_of(program.run, token_ids), expected)


def test_behind_the_block_ops_run_again() -> None:
    calls = Calls(1)
    calls.recorded()
    calls.make()
    assert calls.out.any()


def test_recording_can_go_on_later_and_inside_another() -> None:
    calls = Calls(2)
    outer, inner = ops.Program(), ops.Program()
    with outer:
        ops.embedding(calls.token_ids, calls.table, calls.h)
        with inner:
            ops.linear(calls.x, calls.weight, calls.out)
    with outer:
        ops.rms_norm(calls.h, calls.norm_weight, 1e-5, calls.x)
    assert (len(outer), len(inner)) == (2, 1)

    def run_both() -> None:
        outer.run()
        inner.run()

    expected = calls.result_of(calls.make, i32(5, 6))
    assert_bitwise_equal(calls.result_of(run_both, i32(5, 6)), expected)


def test_shapes_are_checked_while_recording() -> None:
    calls, program = Calls(2), ops.Program()
    with program, pytest.raises(ops.Error, match=r"rms_norm: weight dim 0 \(E\) is 5, expected 48"):
        ops.rms_norm(calls.h, randn(5), 1e-5, calls.x)
    assert len(program) == 0


def test_indices_are_checked_by_every_run_and_nothing_behind_is_called() -> None:
    calls = Calls(2)
    program = calls.recorded()
    program.run()
    before = calls.out.clone()
    calls.token_ids.copy_(i32(1, VOCAB))
    with pytest.raises(ops.Error, match=r"embedding: token_ids\[1\] is 100, expected 0..99"):
        program.run()
    assert_bitwise_equal(calls.out, before)
    calls.token_ids.copy_(i32(0, 0))
    program.run()
    assert_bitwise_equal(calls.out, before)


def test_a_program_that_is_being_recorded_neither_runs_nor_records_twice() -> None:
    program = ops.Program()
    with program:
        with pytest.raises(ops.Error, match="program: it is still being recorded"):
            program.run()
        with pytest.raises(ops.Error, match="program: it is being recorded already"), program:
            pass


def test_another_thread_is_not_recorded() -> None:
    calls, program = Calls(1), ops.Program()
    with program, ThreadPoolExecutor(1) as pool:
        pool.submit(calls.make).result()
    assert len(program) == 0
    assert calls.out.any()


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_tensors_live_as_long_as_the_program(kind: str) -> None:
    def make() -> tuple[ops.Program, weakref.ref[object]]:
        weight = np.ones(HIDDEN, np.float32)
        tensor = torch.from_numpy(weight) if kind == "torch" else weight
        program = ops.Program()
        with program:
            ops.rms_norm(x, tensor, 0.0, out)  # type: ignore[arg-type]
        return program, weakref.ref(weight)

    x, out = randn(1, HIDDEN), torch.empty(1, HIDDEN)
    program, weight = make()
    gc.collect()
    assert weight() is not None
    program.run()
    assert torch.isfinite(out).all()
    del program
    gc.collect()
    assert weight() is None
