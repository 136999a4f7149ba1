"""Threads that use one network, through one model or several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phi3svc.api.modeling import Phi3ForCausalLM, Phi3Model
from phi3svc.errors import InvalidRequest
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import random_ids

ROWS = [torch.tensor([random_ids(30 + i, seed=i)]) for i in range(4)]

CALLS: dict[str, Callable[[Phi3ForCausalLM, Tensor], Tensor]] = {
    "forward": lambda model, ids: model(ids).logits,
    "generate": lambda model, ids: model.generate(ids, max_new_tokens=12),  # type: ignore[dict-item,return-value]
    "decoder": lambda model, ids: model.model(ids).last_hidden_state,
}


@pytest.fixture(scope="module")
def model(checkpoint: MakeCheckpoint) -> Phi3ForCausalLM:
    return Phi3ForCausalLM.from_pretrained(checkpoint(original=32))


def test_a_threads_results_are_those_it_gets_alone(model: Phi3ForCausalLM) -> None:
    expected = {name: [call(model, ids) for ids in ROWS] for name, call in CALLS.items()}
    wrong: list[str] = []

    def use(name: str) -> None:
        for _ in range(15):
            for ids, alone in zip(ROWS, expected[name], strict=True):
                if not CALLS[name](model, ids).equal(alone):
                    wrong.append(name)

    threads = [threading.Thread(target=use, args=(name,)) for name in [*CALLS, "forward"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", CALLS)
def test_a_call_within_a_call_is_refused(model: Phi3ForCausalLM, name: str) -> None:
    def judge(input_ids: Tensor, scores: None) -> Any:
        return CALLS[name](model, input_ids)

    with pytest.raises(InvalidRequest, match="model: called by a streamer or stopping criterion"):
        model.generate(ROWS[0], max_new_tokens=3, stopping_criteria=judge)
    assert model.generate(ROWS[0], max_new_tokens=3).shape == (1, 33)


def test_a_call_that_fails_ends_its_turn(
    model: Phi3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(model.network, "logits", fail)
        with pytest.raises(RuntimeError) as error:
            model(ROWS[0])
    assert error.value.__traceback__ is not None  # it is kept, and with it the call's frame
    assert isinstance(model.model, Phi3Model)
    assert model(ROWS[0]).logits.shape[1] == 30
