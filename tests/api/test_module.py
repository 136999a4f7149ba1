"""What scripts ask of a model as they would of any torch module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from phi3svc.api.modeling import Phi3ForCausalLM
from phi3svc.errors import ConfigError
from phi3svc.ops import PackedLinear
from tests.model.checkpoints import make_config
from tests.model.conftest import MakeCheckpoint


def test_what_scripts_ask_of_a_model(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint()
    model, full = Phi3ForCausalLM.from_pretrained(path), transformers.Phi3ForCausalLM(make_config())
    assert model.eval() is model.train(False) is model.to("cpu") is model.cpu() is model
    assert model.to(torch.device("cpu"), dtype=torch.float32, non_blocking=True) is model
    assert model.float() is model.requires_grad_(False) is model
    for name in ("main_input_name", "base_model_prefix"):
        assert getattr(model, name) == getattr(full, name)
    assert (model.can_generate(), model.model.can_generate()) == (True, False)
    assert model.num_parameters(exclude_embeddings=True) == full.num_parameters(
        exclude_embeddings=True
    )
    assert model.training is False
    assert model.num_parameters() == full.num_parameters()
    assert model.model.num_parameters() == full.model.num_parameters()
    assert model.name_or_path == str(path)
    assert model.generation_config.eos_token_id == [257, 261]
    assert model.get_input_embeddings().num_embeddings == 300
    ids = torch.tensor([[1, 2, 3]])
    expected = model(ids, output_hidden_states=True).hidden_states
    assert expected is not None
    assert model.model(ids).last_hidden_state.equal(expected[-1])
    assert model.model.embed_tokens(ids).equal(expected[0])


REFUSED: dict[str, Callable[[Phi3ForCausalLM], object]] = {
    "for inference": lambda model: model.train(),
    "are for inference": lambda model: model.requires_grad_(),
    r"load it with dtype=torch.bfloat16": lambda model: model.to(torch.bfloat16),
    r"load it with .*bfloat16": lambda model: model.bfloat16(),
    r"half\(\): must be float32, .* or bfloat16": lambda model: model.to(torch.float16),
    r"to\('cuda'\): this model is on cpu; load it with device='cuda'": lambda m: m.to("cuda"),
    r"to\('0'\): this model is on cpu; load it with device='cuda:0'": lambda m: m.to(0),
    r"to\('1'\): .* load it with device='cuda:1'": lambda model: model.cuda(1),
    r"to\('cuda'\): .*": lambda model: model.cuda(),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_model_cannot_become_is_refused(checkpoint: MakeCheckpoint, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        REFUSED[message](Phi3ForCausalLM.from_pretrained(checkpoint()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_can_be_asked_their_place_and_size(
    checkpoint: MakeCheckpoint, tied: bool, dtype: torch.dtype
) -> None:
    path = checkpoint(tie_word_embeddings=tied)
    model = Phi3ForCausalLM.from_pretrained(path, dtype=dtype)
    found = {(weights.device, weights.dtype) for weights in model.parameters()}
    assert found == {(model.device, model.dtype)}
    # 300 rows make 18 panels of 16 and one of 12.
    num_padded = 4 * 64 * len({id(weight) for weight in _packed(model)})
    expected = (model.num_parameters() + num_padded) * dtype.itemsize
    assert model.get_memory_footprint() == expected


def _packed(model: Phi3ForCausalLM) -> list[object]:
    """The matrices of vocabulary size that lie in panels."""
    weights = vars(model.network)["weights"]
    return [w for w in (weights.embedding, weights.lm_head) if isinstance(w, PackedLinear)]


def test_missing_part_of_a_module_says_why(checkpoint: MakeCheckpoint) -> None:
    model: Any = Phi3ForCausalLM.from_pretrained(checkpoint())
    with pytest.raises(AttributeError, match="'lm_head': the network is no tree of modules"):
        model.lm_head(torch.zeros(1, 64))
    with pytest.raises(AttributeError, match="'state_dict': weights are packed"):
        model.state_dict()
    with pytest.raises(AttributeError, match=r"has no attribute 'hf_device_map'$"):
        _ = model.hf_device_map
    assert not hasattr(model, "save_pretrained")
