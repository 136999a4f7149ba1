"""Outputs behave like transformers' in every way scripts use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import modeling_outputs

from phi3svc.api import outputs

LOSS, LOGITS, STATES = torch.tensor(1.5), torch.zeros(1, 2, 3), (torch.zeros(1),)
USES: dict[str, Callable[[Any], object]] = {
    "attribute": lambda out: (out.loss, out.logits, out.past_key_values, out.attentions),
    "key": lambda out: (out["logits"], out["hidden_states"]),
    "missing key": lambda out: out["attentions"],
    "unknown key": lambda out: out["nothing"],
    "index": lambda out: (out[0], out[-1]),
    "beyond": lambda out: out[3],
    "slice": lambda out: out[1:],
    "tuple": lambda out: out.to_tuple(),
    "iteration": list,
    "keys": lambda out: list(out.keys()),
    "values": lambda out: list(out.values()),
    "items": lambda out: list(out.items()),
    "length": len,
    "contains": lambda out: ("loss" in out, "attentions" in out, "nothing" in out),
    "get": lambda out: (out.get("logits"), out.get("attentions"), out.get("attentions", 7)),
    "mapping": lambda out: dict(**out),
}


def outcome(use: Callable[[Any], object], out: object) -> object:
    try:
        return use(out)
    except LookupError as error:
        return type(error)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("loss", [LOSS, None], ids=["loss", "none"])
def test_output_is_used_like_transformers(use: str, loss: torch.Tensor | None) -> None:
    fields = {"loss": loss, "logits": LOGITS, "hidden_states": STATES}
    ours = outputs.CausalLMOutputWithPast(**fields)  # type: ignore[arg-type]
    full = modeling_outputs.CausalLMOutputWithPast(**fields)
    assert repr(outcome(USES[use], ours)) == repr(outcome(USES[use], full))


@pytest.mark.parametrize(
    "name",
    [
        "BaseModelOutputWithPast",
        "CausalLMOutputWithPast",
        "SequenceClassifierOutputWithPast",
        "TokenClassifierOutput",
    ],
)
def test_fields_are_those_of_transformers(name: str) -> None:
    ours, full = getattr(outputs, name), getattr(modeling_outputs, name)
    assert list(ours.__dataclass_fields__) == list(full.__dataclass_fields__)
