"""The pool under stress: many small calls, changing thread counts, several Python threads, a busy
machine."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from compare import assert_bitwise_equal
from op_tensors import i32, randn
from phi3svc import ops

pytestmark = pytest.mark.cpu_only

# Large enough that even one row is shared between threads.
WIDTH, OUT_FEATURES = 1024, 16 * 40


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    num_threads, pin = ops.num_threads(), ops.pin_threads()
    yield
    ops.set_num_threads(num_threads)
    ops.set_pin_threads(pin)


@pytest.fixture
def projection() -> Callable[[torch.Tensor], torch.Tensor]:
    weight = ops.pack_linear(randn(OUT_FEATURES, WIDTH, dtype=torch.bfloat16))

    def apply(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(x), OUT_FEATURES)
        ops.linear(x, weight, out)
        return out

    return apply


def test_set_num_threads_is_what_num_threads_says() -> None:
    for count in (1, 2, 5, 256, 1):
        ops.set_num_threads(count)
        assert ops.num_threads() == count


def test_threads_are_at_first_those_that_the_process_may_use() -> None:
    """In a process of its own, tied to one CPU of however many there are."""
    cpu = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{cpu}]); from phi3svc import ops"
    command = [sys.executable, "-c", f"{code}; print(ops.num_threads())"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "1\n"


def test_pinning_changes_no_bit_and_leaves_the_caller_alone(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = randn(3, WIDTH, dtype=torch.bfloat16)
    expected = projection(x)
    cpus = os.sched_getaffinity(0)
    ops.set_num_threads(2)
    for pin in (True, False, True):
        ops.set_pin_threads(pin)
        assert ops.pin_threads() is pin
        assert_bitwise_equal(projection(x), expected)
        assert os.sched_getaffinity(0) == cpus


def test_many_small_calls_with_changing_thread_counts_agree(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = randn(3, WIDTH, dtype=torch.bfloat16)
    expected = projection(x)
    for i in range(400):
        ops.set_num_threads(1 + (i * 7) % 5)
        assert torch.equal(projection(x), expected)


def test_many_calls_on_one_pool_agree(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = randn(1, WIDTH, dtype=torch.bfloat16)
    expected = projection(x)
    ops.set_num_threads(2)
    for _ in range(2000):
        assert torch.equal(projection(x), expected)


def test_more_threads_than_cpus_still_finish(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = randn(2, WIDTH, dtype=torch.bfloat16)
    expected = projection(x)
    ops.set_num_threads(16)
    for _ in range(30):
        assert_bitwise_equal(projection(x), expected)


def test_calls_from_several_python_threads_are_independent(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    ops.set_num_threads(2)
    inputs = [randn(1 + i % 4, WIDTH, dtype=torch.bfloat16) for i in range(4)]
    expected = [projection(x) for x in inputs]

    def work(i: int) -> None:
        for _ in range(150):
            assert_bitwise_equal(projection(inputs[i]), expected[i])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, i) for i in range(4)]:
            done.result()


def test_changing_the_thread_count_while_others_compute_is_safe(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = randn(2, WIDTH, dtype=torch.bfloat16)
    expected = projection(x)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for count in (1, 2, 3):
                ops.set_num_threads(count)
            time.sleep(0)  # lets go of the GIL, which else changes hands every 5 ms

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(300):
            assert_bitwise_equal(projection(x), expected)
    finally:
        stop.set()
        changer.join()


def test_flushing_subnormals_in_the_caller_changes_nothing() -> None:
    """Other libraries set the caller's floating-point mode; the pool's threads have their own."""
    x, packed = 1e-20 * randn(300, WIDTH), ops.pack_linear(1e-20 * randn(OUT_FEATURES, WIDTH))
    ops.set_num_threads(2)

    def apply() -> torch.Tensor:
        out = torch.empty(300, OUT_FEATURES)
        ops.linear(x, packed, out)
        return out.view(torch.int32)

    expected = apply()
    assert torch.set_flush_denormal(True)
    try:
        found = [apply(), apply()]
        ops.set_num_threads(1)
        found.append(apply())
    finally:
        torch.set_flush_denormal(False)
    for bits in found:
        assert torch.equal(bits, expected)


def test_an_error_leaves_the_pool_usable(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = randn(2, WIDTH, dtype=torch.bfloat16)
    expected = projection(x)
    ops.set_num_threads(2)
    for _ in range(20):
        with pytest.raises(ops.Error):
            ops.embedding(i32(10), torch.zeros(10, 4), torch.zeros(1, 4))
        assert_bitwise_equal(projection(x), expected)


def test_an_op_releases_the_gil(projection: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """While one thread is inside an op, another gets to run Python."""
    x = randn(2000, WIDTH, dtype=torch.bfloat16)
    started, ticks_inside = threading.Event(), 0
    finished = threading.Event()

    def compute() -> None:
        started.set()
        projection(x)
        finished.set()

    worker = threading.Thread(target=compute)
    worker.start()
    started.wait()
    while not finished.is_set():
        ticks_inside += 1
        finished.wait(0.0005)
    worker.join()
    assert ticks_inside > 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(sys.platform != "linux", reason="forking with threads is fine on Linux alone")
def test_a_forked_child_computes_on_its_own_pool(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    ops.set_num_threads(2)
    x = randn(1, WIDTH, dtype=torch.bfloat16)
    expected = projection(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(projection(x), expected) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_an_idle_pool_uses_no_cpu(projection: Callable[[torch.Tensor], torch.Tensor]) -> None:
    ops.set_num_threads(2)
    projection(randn(1, WIDTH, dtype=torch.bfloat16))
    time.sleep(0.02)
    start = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - start < 0.01


def test_a_second_thread_does_no_harm_on_a_busy_machine(
    projection: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Twice as many busy processes as CPUs: two threads are about as fast as one, if not faster.

    Were a thread waited for that the kernel does not run, every call would take a time slice.
    """
    x = randn(1, WIDTH, dtype=torch.bfloat16)
    num_busy = 2 * len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_busy)]

    def calls_per_second(num_threads: int) -> float:
        ops.set_num_threads(num_threads)
        num_calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.15:
            projection(x)
            num_calls += 1
        return num_calls / (time.perf_counter() - start)

    try:
        rounds = [(calls_per_second(1), calls_per_second(2)) for _ in range(7)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert statistics.median(two / one for one, two in rounds) > 0.5
