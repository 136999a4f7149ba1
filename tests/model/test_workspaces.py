"""Memory that computations use meanwhile: how it grows, and what is let go of as it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from phi3svc.model import network as network_module
from phi3svc.model.inputs import Chunk, InputShape, ModelInput
from phi3svc.model.passes import Recorded
from phi3svc.model.workspaces import Workspaces
from tests.devices import DEVICE
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import Pages, random_ids
from tests.networks import load_network


def test_a_workspace_grows_by_doubling() -> None:
    workspaces = Workspaces(torch.float32, DEVICE)
    first = workspaces.rows("x", 5, 3)
    assert first.shape == (5, 3)
    assert workspaces.rows("x", 8, 3).data_ptr() == first.data_ptr()
    assert workspaces.rows("x", 2, 3).shape == (2, 3)
    assert workspaces.rows("x", 9, 3).data_ptr() != first.data_ptr()
    assert workspaces.rows("y", 0, 3, dtype=torch.int8).shape == (0, 3)


def test_bytes_are_zeroed_once() -> None:
    workspaces = Workspaces(torch.float32, DEVICE)
    counters = workspaces.zeroed("counters", 5)
    assert len(counters) == 8
    assert not counters.any()
    counters.fill_(1)
    assert workspaces.zeroed("counters", 8).all()
    assert not workspaces.zeroed("counters", 9).any()


def test_what_was_recorded_with_a_smaller_one_is_forgotten() -> None:
    """Else it would hold on to it: a climbing load would leave a workspace of every size behind."""
    workspaces = Workspaces(torch.float32, DEVICE)
    recorded: Recorded[Tensor] = Recorded(64)
    workspaces.forgets(recorded)
    shapes = [InputShape(num_rows, 1, 1) for num_rows in range(1, 65)]
    for shape in shapes:
        recorded.keep(shape, workspaces.rows("x", shape.num_tokens, 3))
    assert [shape for shape in shapes if recorded.find(shape) is not None] == shapes[32:]
    workspaces.rows("y", 1)  # a new one is nobody's
    assert recorded.find(InputShape(64, 1, 1)) is not None
    workspaces.clear()
    assert recorded.find(InputShape(64, 1, 1)) is None


def test_recordings_used_last_are_kept() -> None:
    recorded: Recorded[str] = Recorded(2)
    shapes = [InputShape(n, 1, 1) for n in range(3)]
    for shape, item in zip(shapes[:2], "ab", strict=True):
        recorded.keep(shape, item)
    assert recorded.find(shapes[0]) == "a"
    recorded.keep(shapes[2], "c")
    assert [recorded.find(shape) for shape in shapes] == ["a", None, "c"]


def test_the_need_that_is_told_covers_all_workspaces(
    checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "_RECORDED_BYTES", 0)
    monkeypatch.setattr(network_module, "_MAX_ATTENTION_BYTES", 1 << 17)
    monkeypatch.setattr(network_module, "MAX_LOGIT_ROWS", 7)
    made: list[tuple[Any, ...]] = []
    for name in ("rows", "zeroed"):
        method = getattr(Workspaces, name)

        def spy(self: Workspaces, name: str, *args: Any, method: Any = method, **kw: Any) -> Tensor:
            tensor: Tensor = method(self, name, *args, **kw)
            made.append((name, tensor.untyped_storage().nbytes()))
            return tensor

        monkeypatch.setattr(Workspaces, name, spy)
    network = load_network(checkpoint())
    pages = Pages(network, 8)
    h = network.forward(ModelInput.pack([Chunk(random_ids(70), 0, 0, pages.take(70))]), pages.kv)
    network.logits(h, torch.arange(7, dtype=torch.int32))
    network.sampling_workspace(7)
    used = sum(dict(made).values())
    table_bytes = 2 * 4 * network.config.context_len * network.config.rope.rotary_dim
    told = network.workspace_bytes(70, 7) - table_bytes * network.rope.table.shape[0]
    assert used <= told <= 3 * used
