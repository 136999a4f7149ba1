"""The arguments of forward against transformers', one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phi3svc.api.modeling import (
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    Phi3ForTokenClassification,
    Phi3Model,
)
from phi3svc.errors import InvalidRequest
from tests.api.batches import pad, theirs
from tests.model import oracle
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import random_ids

IDS = torch.tensor([random_ids(12, seed=1), random_ids(12, seed=2)])


@pytest.fixture(scope="module")
def model(checkpoint: MakeCheckpoint) -> Phi3ForCausalLM:
    return Phi3ForCausalLM.from_pretrained(checkpoint(original=32))


@pytest.fixture(scope="module")
def expected(checkpoint: MakeCheckpoint) -> Any:
    return oracle.load(checkpoint(original=32))


@pytest.mark.parametrize(
    "positions",
    [
        torch.arange(12)[None],
        torch.arange(5, 17)[None],
        torch.stack([torch.arange(12), torch.arange(0, 24, 2)]),
        torch.tensor([[0, 1, 2, 9, 9, 4, 3, 20, 21, 22, 23, 31]] * 2),
        torch.arange(30, 42)[None],  # long factors, for their positions
    ],
    ids=["plain", "shifted", "by-row", "wild", "long"],
)
def test_position_ids(model: Phi3ForCausalLM, expected: Any, positions: Tensor) -> None:
    logits = model(IDS, position_ids=positions).logits
    full = theirs(expected, IDS, position_ids=positions).logits
    assert oracle.relative_error(logits, full) < 1e-4
    whole = {"position_ids": positions, "attention_mask": torch.ones_like(IDS), "use_cache": False}
    assert logits.equal(model(IDS, **whole).logits)
    each = [model(IDS[i : i + 1], position_ids=positions[i % len(positions)][None]) for i in (0, 1)]
    assert logits.equal(torch.cat([out.logits for out in each]))


def test_position_ids_of_a_padded_batch(model: Phi3ForCausalLM) -> None:
    """As tokenizers' users compute them; what stands at padding does not matter."""
    ids, mask = pad([random_ids(40), random_ids(7)])
    positions = mask.cumsum(-1) - 1
    positions[mask == 0] = -5
    logits = model(ids, mask, position_ids=positions).logits
    assert logits.equal(model(ids, mask).logits)


def test_positions_go_on_from_the_past(model: Phi3ForCausalLM, expected: Any) -> None:
    positions = torch.arange(3, 15)[None]
    cache = model(IDS[:, :8], position_ids=positions[:, :8]).past_key_values
    logits = model(IDS[:, 8:], past_key_values=cache).logits
    whole = theirs(expected, IDS, position_ids=positions).logits[:, 8:]
    assert oracle.relative_error(logits, whole) < 1e-4


@pytest.mark.parametrize("window", [None, 9])
def test_mask_with_gaps(checkpoint: MakeCheckpoint, window: int | None) -> None:
    """Tokens left out are keys for nobody, and those behind them keep their positions."""
    path = checkpoint(sliding_window=window)
    model, expected = Phi3ForCausalLM.from_pretrained(path), oracle.load(path)
    mask = torch.tensor(
        [[1, 1, 0, 0, 1, 0, 1, 1, 1] + [0] * 3, [0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1]]
    )
    logits = model(IDS, attention_mask=mask).logits
    full = theirs(expected, IDS, attention_mask=mask).logits
    for i in range(2):
        real = mask[i] == 1
        assert oracle.relative_error(logits[i, real], full[i, real]) < 1e-4
        alone = model(IDS[i : i + 1], attention_mask=mask[i : i + 1]).logits[0]
        assert logits[i].equal(alone)
    assert not logits[mask == 0].any()


def test_gap_in_a_row_longer_than_the_window(checkpoint: MakeCheckpoint) -> None:
    model = Phi3ForCausalLM.from_pretrained(checkpoint(sliding_window=9))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 0] = mask[1, 11] = 0
    model(IDS, attention_mask=mask)  # padding is no gap
    mask[1, 4] = 0
    with pytest.raises(InvalidRequest, match=r"row 1 has a gap .* window of 9"):
        model(IDS, attention_mask=mask)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_equal_their_tokens(checkpoint: MakeCheckpoint, dtype: str) -> None:
    """Bit for bit, padded or not; and those of no token equal transformers'."""
    path = checkpoint(original=32)
    model = Phi3ForCausalLM.from_pretrained(path, dtype=dtype)
    ids, mask = pad([random_ids(40), random_ids(7)])
    embeds = model.get_input_embeddings()(ids)
    assert embeds.dtype == model.dtype
    assert model(inputs_embeds=embeds, attention_mask=mask).logits.equal(model(ids, mask).logits)
    if dtype == "float32":
        noise = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(0))
        full = theirs(oracle.load(path), inputs_embeds=noise).logits
        assert oracle.relative_error(model(inputs_embeds=noise).logits, full) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "kind", [Phi3Model, Phi3ForCausalLM, Phi3ForSequenceClassification, Phi3ForTokenClassification]
)
def test_hidden_states(checkpoint: MakeCheckpoint, kind: Any, dtype: str) -> None:
    path = checkpoint(kind.__name__, original=32)
    model = kind.from_pretrained(path, dtype=dtype)
    states = model(IDS, output_hidden_states=True).hidden_states
    exact, rounded = (
        theirs(oracle.load(path, name, kind.__name__), IDS, output_hidden_states=True).hidden_states
        for name in ("float32", dtype)
    )
    assert len(states) == len(exact) == 3
    for ours, full, half in zip(states, exact, rounded, strict=True):
        assert ours.dtype == model.dtype
        limit = max(1e-4, 2 * oracle.relative_error(half.float(), full))
        assert oracle.relative_error(ours.float(), full) < limit
    assert model(IDS).hidden_states is None
    if kind is Phi3Model:
        assert states[-1].equal(model(IDS).last_hidden_state)


def test_hidden_states_of_rows_are_their_own(model: Phi3ForCausalLM) -> None:
    """In a padded batch, and in a step that computes the past again."""
    ids, mask = pad([random_ids(40), random_ids(7)])
    states = model(ids, mask, output_hidden_states=True).hidden_states
    cache = model(ids[:, :30], mask[:, :30]).past_key_values
    later = model(ids[:, 30:], mask, past_key_values=cache, output_hidden_states=True).hidden_states
    assert states is not None
    assert later is not None
    alone = model(ids[1:, -7:], output_hidden_states=True).hidden_states
    assert alone is not None
    for batch, rest, row in zip(states, later, alone, strict=True):
        assert batch[1, -7:].equal(row[0])
        assert not batch[1, :-7].any()
        assert rest.equal(batch[:, 30:])


@pytest.mark.parametrize(
    "keep", [0, 1, 5, 12, 99, torch.tensor([3]), torch.tensor([11, 0, -3, 0])], ids=str
)
def test_logits_to_keep(model: Phi3ForCausalLM, expected: Any, keep: int | Tensor) -> None:
    logits = model(IDS, logits_to_keep=keep).logits
    full = theirs(expected, IDS, logits_to_keep=keep).logits
    assert logits.shape == full.shape
    assert oracle.relative_error(logits, full) < 1e-4
    everything = model(IDS).logits
    if isinstance(keep, Tensor):
        assert logits.equal(everything[:, keep])
    else:
        assert logits.equal(everything[:, -keep:])


def test_return_dict(model: Phi3ForCausalLM, expected: Any) -> None:
    for options in ({}, {"use_cache": False}, {"labels": IDS}, {"output_hidden_states": True}):
        ours: Any = model(IDS, return_dict=False, **options)  # type: ignore[arg-type]
        full = theirs(expected, IDS, return_dict=False, **options)
        assert isinstance(ours, tuple)
        assert [type(x) is Tensor for x in ours] == [type(x) is Tensor for x in full]
        assert len(ours) == len(full)
    named = model(IDS, return_dict=True)
    assert set(named.keys()) == set(theirs(expected, IDS, return_dict=True).keys())


def test_arguments_that_change_nothing(model: Phi3ForCausalLM) -> None:
    out = model(
        input_ids=IDS,
        token_type_ids=torch.zeros_like(IDS),
        cache_position=torch.arange(12),
        output_attentions=False,
        output_hidden_states=False,
        return_dict=None,
    )
    assert out.logits.equal(model(IDS).logits)
    assert out.attentions is None


EMBEDS = torch.zeros(1, 3, 64)
BAD_CALLS: dict[str, Callable[[Phi3ForCausalLM], object]] = {
    "input_ids: give exactly one of": lambda m: m(),
    "exactly one of input_ids and inputs_embeds": lambda m: m(IDS[:1, :3], inputs_embeds=EMBEDS),
    r"input_ids: .*\[3\]": lambda m: m(IDS[0, :3]),
    r"input_ids: .*\[1, 0\]": lambda m: m(IDS[:1, :0]),
    "input_ids: .*float32": lambda m: m(torch.zeros(1, 3)),
    r"input_ids: row 1 has an id outside 0\.\.299": lambda m: m(torch.tensor([[1, 2], [1, 300]])),
    "input_ids: row 0 has an id outside": lambda m: m(torch.tensor([[-1]])),
    "input_ids: is a list": lambda m: m([[1, 2]]),  # type: ignore[arg-type]
    r"inputs_embeds: .*\[1, 3, 60\]; expected .*64": lambda m: m(inputs_embeds=EMBEDS[..., :60]),
    r"inputs_embeds: torch\.int64": lambda m: m(inputs_embeds=EMBEDS.long()),
    r"attention_mask: is \[2, 1, 12, 12\]; expected \[2, 12\]": lambda m: m(
        IDS, attention_mask=torch.ones(2, 1, 12, 12)
    ),
    "attention_mask: is dict": lambda m: m(IDS, attention_mask={}),  # type: ignore[arg-type]
    r"position_ids: .*\[12\]; expected .*\[2, 12\] or \[1, 12\]": lambda m: m(
        IDS, position_ids=torch.arange(12)
    ),
    "position_ids: 501 to 512; expected 0 to 511": lambda m: m(
        IDS, position_ids=torch.arange(501, 513)[None]
    ),
    "position_ids: -1 to 10": lambda m: m(IDS, position_ids=torch.arange(-1, 11)[None]),
    "position_ids: row 0 is packed of several sequences": lambda m: m(
        IDS, position_ids=torch.arange(12)[None] % 7, use_cache=False
    ),
    "input_ids: row 0 has 513 positions": lambda m: m(torch.ones(1, 513, dtype=torch.long)),
    "logits_to_keep: -1": lambda m: m(IDS, logits_to_keep=-1),
    r"logits_to_keep: tensor\(\[12\]\)": lambda m: m(IDS, logits_to_keep=torch.tensor([12])),
    "logits_to_keep: with labels": lambda m: m(IDS, labels=IDS, logits_to_keep=3),
    "output_attentions: must not be true": lambda m: m(IDS, output_attentions=True),
    "output_hidden_states: must be": lambda m: m(IDS, output_hidden_states=[0]),  # type: ignore[arg-type]
    "atention_mask: not an argument": lambda m: m(IDS, atention_mask=IDS),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_bad_argument_is_named(model: Phi3ForCausalLM, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:  # what scripts catch
        BAD_CALLS[message](model)
    assert isinstance(caught.value, InvalidRequest)


def test_pooling_of_embeddings_and_of_new_tokens(checkpoint: MakeCheckpoint) -> None:
    """The last real one of embeddings; with a past, only new tokens are pooled, as there."""
    path = checkpoint("Phi3ForSequenceClassification", labels=("a", "b", "c"))
    model = Phi3ForSequenceClassification.from_pretrained(path)
    expected = oracle.load(path, "float32", "Phi3ForSequenceClassification")
    embeds = model.get_input_embeddings()(IDS)
    logits = model(inputs_embeds=embeds).logits
    full = theirs(expected, inputs_embeds=embeds).logits
    assert oracle.relative_error(logits, full) < 1e-4
    padded = torch.cat([embeds, torch.zeros(2, 3, 64)], dim=1)
    mask = torch.tensor([[1] * 12 + [0] * 3] * 2)
    assert model(inputs_embeds=padded, attention_mask=mask).logits.equal(logits)
    cache = model(IDS[:, :7]).past_key_values
    assert model(IDS[:, 7:], past_key_values=cache).logits.equal(model(IDS).logits)
