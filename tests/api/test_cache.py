"""Loops by hand over past_key_values: every step is what one call with the whole row gives."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor

from phi3svc.api import forward_pass, page_pool
from phi3svc.api.cache import Phi3Cache
from phi3svc.api.modeling import Phi3ForCausalLM
from phi3svc.errors import InvalidRequest
from phi3svc.model.kv_cache import page_bytes
from tests.api.batches import pad, theirs
from tests.model import oracle
from tests.model.conftest import MakeCheckpoint
from tests.model.decoding import random_ids

ORIGINAL = 32
ROWS = [random_ids(60, seed=seed) for seed in range(4)]
STARTS = (28, 23, 32, 3)
"""Tokens of each row in the first call: those rows cross ORIGINAL at different steps, or never."""


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, checkpoint: MakeCheckpoint) -> Phi3ForCausalLM:
    return Phi3ForCausalLM.from_pretrained(checkpoint(original=ORIGINAL), dtype=request.param)


def last_logits(model: Phi3ForCausalLM, row: list[int]) -> Tensor:
    """[V] after the last token, by one call without a cache."""
    return model(torch.tensor([row]), use_cache=False, logits_to_keep=1).logits[0, -1]


def begin(model: Phi3ForCausalLM, num_tokens: int = 20) -> Phi3Cache:
    """The cache of a call with the first tokens of ROWS[0]."""
    cache = model(torch.tensor([ROWS[0][:num_tokens]])).past_key_values
    assert cache is not None
    return cache


def test_loop_across_the_boundary_in_a_padded_batch(model: Phi3ForCausalLM) -> None:
    """Padding on every row: the batch's width is over the boundary before any row is."""
    ids, mask = pad([row[:n] for row, n in zip(ROWS, STARTS, strict=True)], width=ORIGINAL + 2)
    out = model(ids, attention_mask=mask)
    for step in range(15):
        for i, (row, start) in enumerate(zip(ROWS, STARTS, strict=True)):
            assert out.logits[i, -1].equal(last_logits(model, row[: start + step])), (step, i)
        new = torch.tensor([[row[n + step]] for row, n in zip(ROWS, STARTS, strict=True)])
        mask = torch.cat([mask, torch.ones_like(new)], dim=1)
        before = out.past_key_values
        out = model(new, attention_mask=mask, past_key_values=before)
        assert out.past_key_values is before
        assert before is not None
        assert before.get_seq_length() == mask.shape[1]


def test_loop_equals_transformers_without_a_cache(checkpoint: MakeCheckpoint) -> None:
    path = checkpoint(original=ORIGINAL)
    model, expected = Phi3ForCausalLM.from_pretrained(path), oracle.load(path)
    row = ROWS[0]
    cache = begin(model, ORIGINAL - 4)
    for n in range(ORIGINAL - 4, ORIGINAL + 10):
        logits = model(torch.tensor([[row[n]]]), past_key_values=cache).logits[0]
        full = oracle.logits(expected, row[: n + 1])[-1:]
        assert oracle.relative_error(logits, full) < 1e-4, n


def test_mask_of_the_past_is_remembered(model: Phi3ForCausalLM) -> None:
    ids, mask = pad([ROWS[0][:9], ROWS[1][:4]])
    cache = model(ids, attention_mask=mask).past_key_values
    out = model(torch.tensor([[7], [8]]), past_key_values=cache)
    assert out.logits[1, -1].equal(last_logits(model, [*ROWS[1][:4], 8]))


@pytest.mark.parametrize("chunk_len", [1, 7, 16, 33])
def test_prefill_in_chunks_by_hand(model: Phi3ForCausalLM, chunk_len: int) -> None:
    """Left padding longer than a chunk: the shorter row begins in a later one."""
    ids, mask = pad([ROWS[0][:45], ROWS[1][:10]])
    cache = Phi3Cache()
    for start in range(0, 45, chunk_len):
        stop = min(start + chunk_len, 45)
        out = model(
            ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache, use_cache=True
        )
        assert out.past_key_values is cache
        whole = model(torch.tensor([ROWS[0][:stop]])).logits[0, start:]
        assert out.logits[0].equal(whole), start
    assert out.logits[1, -1].equal(last_logits(model, ROWS[1][:10]))


def test_use_cache(checkpoint: MakeCheckpoint, model: Phi3ForCausalLM) -> None:
    ids = torch.tensor([ROWS[0][:5]])
    assert isinstance(model(ids).past_key_values, Phi3Cache)
    assert model(ids, use_cache=False).past_key_values is None
    without = Phi3ForCausalLM.from_pretrained(checkpoint(use_cache=False))
    assert without(ids).past_key_values is None
    assert isinstance(without(ids, use_cache=True).past_key_values, Phi3Cache)
    cache = begin(model)  # as in transformers: it grows though it is not returned
    assert model(ids, past_key_values=cache, use_cache=False).past_key_values is None
    assert cache.get_seq_length() == 25


@pytest.mark.parametrize("length", [20, -25], ids=["to", "by"])
def test_cropped_cache_goes_on_from_there(model: Phi3ForCausalLM, length: int) -> None:
    """Back over the boundary: the short factors hold again."""
    ids, mask = pad([ROWS[0][:45], ROWS[1][:40]])
    cache = model(ids, attention_mask=mask).past_key_values
    assert cache is not None
    cache.crop(0)
    assert cache.get_seq_length() == 45
    cache.crop(length)
    assert cache.get_seq_length() == 20
    out = model(torch.tensor([[5, 6], [7, 8]]), past_key_values=cache)
    assert out.logits[0, -1].equal(last_logits(model, [*ROWS[0][:20], 5, 6]))
    assert out.logits[1, -1].equal(last_logits(model, [*ROWS[1][:15], 7, 8]))


def test_emptied_cache_takes_another_batch(model: Phi3ForCausalLM) -> None:
    cache = begin(model)
    cache.reset()
    ids, mask = pad([ROWS[1][:9], ROWS[2][:4]])
    out = model(ids, attention_mask=mask, past_key_values=cache)
    assert out.logits[1, -1].equal(last_logits(model, ROWS[2][:4]))


def test_rows_selected_and_repeated(model: Phi3ForCausalLM) -> None:
    """As beams do it: one row twice, one gone. The two go separate ways from then on."""
    parts = [ROWS[0][:20], ROWS[1][:18], ROWS[2][:33]]
    ids, mask = pad(parts)
    cache = model(ids, attention_mask=mask).past_key_values
    assert cache is not None
    cache.reorder_cache(torch.tensor([2, 0, 2]))
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 6
    new = torch.arange(12).view(6, 2)
    out = model(new, past_key_values=cache)
    for i, row_idx in enumerate([2, 2, 0, 0, 2, 2]):
        row = [*parts[row_idx], *new[i].tolist()]
        assert out.logits[i, -1].equal(last_logits(model, row)), i
    with pytest.raises(InvalidRequest, match=r"indices: 6: must be 0 to 5"):
        cache.batch_select_indices([6])


def test_copies_are_independent(model: Phi3ForCausalLM) -> None:
    cache = begin(model)
    other = copy.deepcopy(cache)
    for past, token in ((cache, 5), (other, 6), (cache, 7), (other, 8)):
        row = ROWS[0][:20] + ([token - 2] if token > 6 else []) + [token]
        out = model(torch.tensor([[token]]), past_key_values=past)
        assert out.logits[0, -1].equal(last_logits(model, row))


@pytest.mark.parametrize("num_tokens", [20, ORIGINAL])
def test_call_that_fails_leaves_the_cache_usable(
    model: Phi3ForCausalLM, num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was about to compute all anew, for passing the original length."""
    cache = begin(model, num_tokens)
    new = torch.tensor([ROWS[0][num_tokens : num_tokens + 8]])
    calls = []

    def fail(*args: object) -> Tensor:
        calls.append(args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(forward_pass, "_STEP_TOKENS", 5)
        patched.setattr(model.network, "logits", fail)
        with pytest.raises(KeyboardInterrupt):
            model(new, past_key_values=cache)
    assert calls
    assert cache.get_seq_length() == num_tokens
    out = model(new, past_key_values=cache)
    assert out.logits[0, -1].equal(last_logits(model, ROWS[0][: num_tokens + 8]))


def test_embeddings_across_the_boundary(model: Phi3ForCausalLM) -> None:
    """Tokens given as embeddings are kept as such, between others, and computed again as such."""
    embed = model.get_input_embeddings()
    row = ROWS[0]
    out = model(inputs_embeds=embed(torch.tensor([row[:10]])))
    cache = out.past_key_values
    assert cache is not None
    model(torch.tensor([row[10:20]]), past_key_values=cache)
    model(inputs_embeds=embed(torch.tensor([row[20:31]])), past_key_values=cache)
    cache.crop(-1)
    for n in range(30, 36):
        out = model(torch.tensor([[row[n]]]), past_key_values=cache)
        assert out.logits[0, -1].equal(last_logits(model, row[: n + 1])), n


def test_padding_between_past_and_new(checkpoint: MakeCheckpoint) -> None:
    """Right padding, then more tokens: positions count columns, as in transformers."""
    path = checkpoint()
    model, expected = Phi3ForCausalLM.from_pretrained(path), oracle.load(path)
    ids, mask = pad([ROWS[0][:9], ROWS[1][:4]], side="right")
    cache = model(ids, attention_mask=mask).past_key_values
    for token in (5, 6):
        ids = torch.cat([ids, torch.full((2, 1), token)], dim=1)
        mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
        out = model(ids[:, -1:], attention_mask=mask, past_key_values=cache)
        full = theirs(expected, ids, attention_mask=mask).logits[:, -1:]
        assert oracle.relative_error(out.logits, full) < 1e-4


BAD_CALLS: dict[str, Callable[[Phi3ForCausalLM, Phi3Cache], object]] = {
    "past_key_values: has 1 rows; the batch has 2": lambda m, cache: m(
        torch.tensor([[1], [2]]), past_key_values=cache
    ),
    r"attention_mask: is \[1, 1\]; expected \[1, 21\], the 20 columns": lambda m, cache: m(
        torch.tensor([[1]]), torch.ones(1, 1), past_key_values=cache
    ),
    "attention_mask: row 0 differs in the past": lambda m, cache: m(
        torch.tensor([[1]]), torch.tensor([[0] + [1] * 20]), past_key_values=cache
    ),
    "cache_position: must be 20 to 21": lambda m, cache: m(
        torch.tensor([[1, 2]]), past_key_values=cache, cache_position=torch.tensor([0, 1])
    ),
    "past_key_values: is a DynamicCache; expected a Phi3Cache": lambda m, cache: m(
        torch.tensor([[1]]), past_key_values=transformers.DynamicCache()
    ),
    "input_ids: row 0 has 513 positions; the model has 512": lambda m, cache: m(
        torch.ones(1, 493, dtype=torch.long), past_key_values=cache
    ),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_cache_that_does_not_fit_is_named(model: Phi3ForCausalLM, message: str) -> None:
    cache = begin(model)
    with pytest.raises(InvalidRequest, match=message):
        BAD_CALLS[message](model, cache)
    out = model(torch.tensor([[9]]), past_key_values=cache)  # and it is none the worse for it
    assert out.logits[0, -1].equal(last_logits(model, [*ROWS[0][:20], 9]))


def test_mask_that_still_covers_what_was_cropped(model: Phi3ForCausalLM) -> None:
    cache = begin(model)
    cache.crop(-3)
    with pytest.raises(InvalidRequest, match=r"attention_mask: is \[1, 21\]; expected \[1, 18\]"):
        model(torch.tensor([[1]]), torch.ones(1, 21), past_key_values=cache)


def test_cache_of_another_model(checkpoint: MakeCheckpoint, model: Phi3ForCausalLM) -> None:
    other = Phi3ForCausalLM.from_pretrained(checkpoint(seed=1))
    with pytest.raises(InvalidRequest, match="past_key_values: was computed by another model"):
        other(torch.tensor([[1]]), past_key_values=begin(model))


def test_more_than_memory_holds(model: Phi3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi3svc.api.memory._UNCHECKED", 0)
    monkeypatch.setattr("phi3svc.api.memory.free_bytes", lambda device: 1 << 16)
    with pytest.raises(InvalidRequest, match=r"keys and values would take .* GiB are free"):
        model(torch.ones(1, 400, dtype=torch.long), logits_to_keep=1)


@pytest.mark.parametrize(("backend", "num_pages"), [("cpu", 8), ("cuda", 11)])
def test_pages_to_spare_count_where_untouched_ones_are_memory(
    model: Phi3ForCausalLM, monkeypatch: pytest.MonkeyPatch, backend: str, num_pages: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(model.network, "backend", backend)
    monkeypatch.setattr(
        page_pool, "require_bytes", lambda field, num_bytes, *others: asked.append(num_bytes)
    )
    page_pool.PagePool(model.network).reserve(8)
    assert asked == [num_pages * page_bytes(model.network.config, model.dtype)]
