"""Torch's streams on one network: what each queues comes behind what the others have queued."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from phi3svc.model import network as network_module
from phi3svc.model.device import StreamOrder, sent
from phi3svc.model.inputs import Chunk, ModelInput
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import Pages, random_ids
from tests.networks import load_network


class Stream:
    def __init__(self) -> None:
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


def test_a_stream_waits_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Stream(), Stream()
    current = first
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    order = StreamOrder(torch.device("cuda", 0))
    assert not order.has_changed()
    current = second
    assert order.has_changed()
    assert not order.has_changed()
    current = first
    assert order.has_changed()
    assert (first.waited_for, second.waited_for) == ([second], [first])


def test_memory_is_held_for_the_stream_that_has_come_to_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    order = StreamOrder(torch.device("cuda", 0))
    current = Stream()
    assert order.has_changed()
    held: list[tuple[Tensor, Stream]] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: held.append((self, stream)))
    tensor = torch.zeros(1)
    order.hold([tensor])
    assert held[0][0] is tensor
    assert held[0][1] is current


def test_a_cpu_has_no_streams() -> None:
    order = StreamOrder(torch.device("cpu"))
    assert not order.has_changed()
    order.hold([torch.zeros(1)])


class ChangingOrder(StreamOrder):
    """Another stream whenever a test says so."""

    def __init__(self, device: torch.device) -> None:
        self.has_new_stream = False
        self.held: list[int] = []

    def has_changed(self) -> bool:
        has_changed, self.has_new_stream = self.has_new_stream, False
        return has_changed

    def hold(self, tensors: Iterable[Tensor]) -> None:
        self.held = [tensor.data_ptr() for tensor in tensors]


def test_nothing_recorded_on_another_stream_is_run_again(
    checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[ChangingOrder] = []

    def order_of(device: torch.device) -> ChangingOrder:
        orders.append(ChangingOrder(device))
        return orders[-1]

    monkeypatch.setattr(network_module, "StreamOrder", order_of)
    network = load_network(checkpoint())
    num_recorded = 0
    compute = network.compute

    def count(inputs: ModelInput, kv: object) -> Tensor:
        nonlocal num_recorded
        num_recorded += 1
        return compute(inputs, kv)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "compute", count)
    pages = Pages(network, 3)
    inputs = ModelInput.pack([Chunk(random_ids(5), 0, 0, pages.take(5))])
    first = network.forward(inputs, pages.kv)
    expected, workspace = first.clone(), first.data_ptr()
    assert network.forward(inputs, pages.kv).data_ptr() == workspace
    assert num_recorded == 1

    orders[-1].has_new_stream = True
    again = network.forward(inputs, pages.kv)
    assert again.equal(expected)
    # `first` still has its memory: the old stream may be writing to it.
    assert again.data_ptr() != workspace
    assert num_recorded == 2
    used = {tensor.data_ptr() for layer in pages.kv.layers for tensor in layer}
    assert {network.rope.table.data_ptr(), *used} <= {*orders[-1].held}


def test_what_is_sent_is_read_from_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose owner torch is until the copy is over, so that the tensor may go at once."""
    num_staged = 0

    def pin_memory(tensor: Tensor) -> Tensor:
        nonlocal num_staged
        num_staged += 1
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    rows = torch.tensor([1, 2], dtype=torch.int32, device="cpu")
    assert sent(rows, torch.device("cpu")) is rows
    assert num_staged == 0
    on_device = sent(rows, torch.device("meta"))
    assert on_device.device.type == "meta"
    assert num_staged == 1
    assert sent(on_device, torch.device("meta")) is on_device
    assert num_staged == 1
