"""Programs: recorded calls do what the calls do, on what their tensors hold when they run."""

from __future__ import annotations

import gc
import os
import sys
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


@pytest.mark.cpu_only
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


@pytest.mark.parametrize("kind", ["torch", pytest.param("numpy", marks=pytest.mark.cpu_only)])
def test_tensors_live_as_long_as_the_program(kind: str) -> None:
    def make() -> tuple[ops.Program, weakref.ref[object]]:
        weight = torch.ones(HIDDEN) if kind == "torch" else np.ones(HIDDEN, np.float32)
        program = ops.Program()
        with program:
            ops.rms_norm(x, weight, 0.0, out)  # type: ignore[arg-type]
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


def test_copies_are_calls_like_others() -> None:
    source, out = randn(3, 5), torch.zeros(3, 5)
    program = ops.Program()
    with program:
        ops.copy(source, out)
    assert not out.any()
    for _ in range(3):
        source += 1
        program.run()
        program.wait()
        assert_bitwise_equal(out, source)
    ops.copy(out[1:], source[:2])
    assert_bitwise_equal(source[:2], out[1:])


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        (torch.zeros(2), torch.zeros(3), "copy: source dim 0 is 2, expected 3"),
        (torch.zeros(2, 1), torch.zeros(2), "copy: source has rank 2, expected 1"),
        (i32(1), torch.zeros(1), "copy: source is int32, expected float32"),
        (torch.zeros(2, 2).T[:1], torch.zeros(1, 2), "copy: source is not contiguous"),
        (torch.zeros(2, 2), torch.zeros(2, 4)[:, :2], "copy: out is not contiguous"),
    ],
)
def test_copies_are_of_one_shape_and_dtype(source: Tensor, out: Tensor, message: str) -> None:
    with pytest.raises(ops.Error, match=message):
        ops.copy(source, out)


def test_many_runs_give_what_the_first_gave() -> None:
    """On CUDA the first makes its calls one by one, and the others are one graph."""
    calls = Calls(3)
    program = calls.recorded()
    found = [calls.result_of(program.run, i32(5, 6, i)) for i in (7, 8, 7, 8, 7)]
    assert_bitwise_equal(torch.stack(found[2:]), torch.stack([found[0], found[1], found[0]]))
    with program:
        ops.copy(calls.out, calls.x[:, :OUT].contiguous())
    assert len(program) == 4
    assert_bitwise_equal(calls.result_of(program.run, i32(5, 6, 7)), found[0])


class TestRunsInTheBackground:
    def test_they_do_what_runs_do_in_the_order_of_their_start(self) -> None:
        calls = Calls(4)
        first, second = ops.Program(), ops.Program()
        with first:
            ops.embedding(calls.token_ids, calls.table, calls.h)
        with second:
            ops.rms_norm(calls.h, calls.norm_weight, 1e-5, calls.x)
            ops.linear(calls.x, calls.weight, calls.out)
        for _ in range(200):
            token_ids = torch.randint(VOCAB, (4,), dtype=torch.int32)
            expected = calls.result_of(calls.make, token_ids)

            def start_both() -> None:
                runs = [first.start(), second.start()]
                assert all(run.wait() for run in reversed(runs))
                assert all(run.seconds > 0 for run in runs)

            assert_bitwise_equal(calls.result_of(start_both, token_ids), expected)

    @pytest.mark.cpu_only
    def test_an_error_is_raised_by_wait_and_what_comes_after_is_not_begun(self) -> None:
        calls = Calls(1)
        program, other = calls.recorded(), Calls(1)
        calls.token_ids.fill_(-1)
        run = program.start()
        behind = other.recorded().start(after=run)
        beside = calls.recorded().start()
        for _ in range(2):
            with pytest.raises(ops.Error, match=r"embedding: token_ids\[0\] is -1"):
                run.wait()
        assert not behind.wait()
        assert not other.out.any()
        with pytest.raises(ops.Error):
            beside.wait()

    def test_a_run_that_nobody_waits_for_keeps_what_it_needs(self) -> None:
        for _ in range(50):
            Calls(64).recorded().start()
        gc.collect()
        calls = Calls(1)
        assert calls.recorded().start().wait()
        assert calls.out.any()

    @pytest.mark.cpu_only
    def test_the_callers_floating_point_mode_changes_nothing(self) -> None:
        calls = Calls(3)
        calls.table.mul_(1e-38)
        program = calls.recorded()
        expected = calls.result_of(calls.make, i32(1, 2, 3))
        assert torch.set_flush_denormal(True)
        try:
            found = calls.result_of(lambda: program.start().wait(), i32(1, 2, 3))
        finally:
            torch.set_flush_denormal(False)
        assert_bitwise_equal(found, expected)


@pytest.mark.cpu_only
class TestEndOn:
    def recorded(self) -> tuple[ops.Program, Tensor, Tensor, Calls]:
        drawn, end_ids, calls = i32(1, 2, 3), i32(-1, -1), Calls(1)
        program = ops.Program()
        with program:
            ops.end_on(drawn, end_ids)
            calls.make()
        return program, drawn, end_ids, calls

    @pytest.mark.parametrize("in_background", [False, True])
    @pytest.mark.parametrize(
        ("drawn", "end_ids", "goes_on"),
        [
            ((1, 2, 3), (-1, -1), True),
            ((1, 2, 3), (4, 0), True),
            ((1, 2, 3), (-1, 3), False),
            ((5, 2, 3), (5, -1), False),
            ((1, -1, 3), (-1, -1), False),
        ],
    )
    def test_it_ends_the_run_that_it_is_part_of(
        self, drawn: tuple[int, ...], end_ids: tuple[int, ...], goes_on: bool, in_background: bool
    ) -> None:
        program, own_drawn, own_end_ids, calls = self.recorded()
        own_drawn.copy_(i32(*drawn))
        own_end_ids.copy_(i32(*end_ids))
        assert (program.start().wait() if in_background else program.run()) == goes_on
        assert bool(calls.out.any()) == goes_on

    def test_what_comes_after_a_run_that_was_ended_is_not_begun(self) -> None:
        program, drawn, _, _ = self.recorded()
        drawn[0] = -1
        calls = Calls(1)
        behind = calls.recorded().start(after=program.start())
        assert not behind.wait()
        assert not calls.out.any()

    def test_it_is_for_programs(self) -> None:
        with pytest.raises(ops.Error, match="end_on: no program is being recorded"):
            ops.end_on(i32(1), i32(1))
        with ops.Program(), pytest.raises(ops.Error, match="end_on: end_ids is float32"):
            ops.end_on(i32(1), torch.zeros(1))


@pytest.mark.cpu_only
@pytest.mark.skipif(sys.platform != "linux", reason="forking with threads is fine on Linux alone")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_background_of_its_own() -> None:
    calls = Calls(1)
    program = calls.recorded()
    assert program.start().wait()
    child = os.fork()
    if child == 0:
        calls.out.zero_()
        os._exit(0 if program.start().wait() and calls.out.any() else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
