"""Phi-3-small through the same classes, against the float64 oracle of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phi3svc.api.configuration import Phi3Config
from phi3svc.api.modeling import Phi3ForCausalLM, Phi3ForSequenceClassification
from phi3svc.errors import InvalidRequest
from tests.api.batches import pad
from tests.model import oracle
from tests.model.decoding import random_ids
from tests.model.small_checkpoints import DEFAULTS, make_small_checkpoint
from tests.model.small_oracle import SmallOracle

ROWS = [random_ids(90, seed=seed) for seed in range(2)]
STARTS = (60, 20)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_checkpoint(tmp_path_factory.mktemp("small"), original=64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loop_across_the_boundary(path: Path, dtype: str) -> None:
    """Left padding of no whole number of blocks: blocks count from the first real token."""
    model = Phi3ForCausalLM.from_pretrained(path, dtype=dtype)
    ids, mask = pad([row[:n] for row, n in zip(ROWS, STARTS, strict=True)])
    out = model(ids, attention_mask=mask)
    for step in range(8):
        for i, (row, start) in enumerate(zip(ROWS, STARTS, strict=True)):
            row_ids = torch.tensor([row[: start + step]])
            assert out.logits[i, -1].equal(model(row_ids).logits[0, -1]), (step, i)
            if dtype == "float32" and step % 4 == 0:
                expected = SmallOracle(path).logits(row_ids[0].tolist())
                assert oracle.relative_error(out.logits[i, -1], expected[-1]) < 1e-4
        new = torch.tensor([[row[n + step]] for row, n in zip(ROWS, STARTS, strict=True)])
        out = model(new, past_key_values=out.past_key_values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_are_those_before_the_multiplier(path: Path, dtype: str) -> None:
    model = Phi3ForCausalLM.from_pretrained(path, dtype=dtype)
    ids = torch.tensor(ROWS)
    embeds = model.get_input_embeddings()(ids)
    assert model(inputs_embeds=embeds).logits.equal(model(ids).logits)


def test_gap_where_blocks_are_left_out(path: Path) -> None:
    model = Phi3ForCausalLM.from_pretrained(path)
    mask = torch.ones(2, 90, dtype=torch.long)
    mask[0, 5] = 0
    with pytest.raises(InvalidRequest, match=r"row 0 has a gap .* window of 32"):
        model(torch.tensor(ROWS), attention_mask=mask)
    model(torch.tensor(ROWS)[:, :32], attention_mask=mask[:, :32])


def test_random_weights() -> None:
    config = Phi3Config(**DEFAULTS)
    model = Phi3ForCausalLM(config)
    assert model.config.architecture == "Phi3SmallForCausalLM"
    assert model.num_parameters() == config.num_params
    assert torch.isfinite(model(torch.tensor(ROWS)).logits).all()
    labels = Phi3ForSequenceClassification(config)(torch.tensor(ROWS)).logits
    assert labels.shape == (2, 2)
