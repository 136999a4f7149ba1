"""What the small ops do on CUDA with numbers that the host cannot look into, and with CPU formats.

One bad index spoils its own row and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from compare import assert_bitwise_equal
from devices import BACKEND
from op_tensors import Guarded, i32, poisoned, randn
from phi3svc import ops

pytestmark = pytest.mark.skipif(BACKEND == "cpu", reason="a CPU raises an error")

BAD_INDICES = [-1, 37, 2**31 - 1, -(2**31)]


@pytest.mark.parametrize("packed", [False, True])
def test_an_unknown_token_has_no_embedding(packed: bool, dtype: torch.dtype) -> None:
    weight = randn(37, 40, dtype=dtype)
    buffer = Guarded(6, 40, dtype=torch.float32)
    table = ops.pack_linear(weight) if packed else weight
    ops.embedding(i32(3, *BAD_INDICES, 36), table, buffer.out)
    out = buffer.checked()
    assert out[1:5].isnan().all()
    assert_bitwise_equal(out[[0, 5]], weight[[3, 36]].float())


@pytest.mark.parametrize("is_small", [False, True])
def test_a_head_over_no_row(is_small: bool, dtype: torch.dtype) -> None:
    h, norm_weight = randn(37, 40), randn(40, dtype=dtype)
    norm_bias = randn(40, dtype=dtype) if is_small else None
    weight = ops.pack_linear(randn(70, 40, dtype=dtype))

    def logits(rows: Tensor) -> Tensor:
        buffer = Guarded(len(rows), 70, dtype=torch.float32)
        normed = poisoned(len(rows), 40, dtype=dtype)
        ops.lm_head(h, rows, norm_weight, 1e-5, weight, normed, buffer.out, norm_bias)
        return buffer.checked()

    out = logits(i32(3, *BAD_INDICES, 36))
    assert out[1:5].isnan().all()
    assert_bitwise_equal(out[[0, 5]], logits(i32(3, 36)))


def test_an_unknown_token_has_no_logprob() -> None:
    logits = randn(6, 37)
    of_tokens, top_ids = torch.empty(6), torch.empty(6, 2, dtype=torch.int32)
    ops.logprobs(logits, i32(3, *BAD_INDICES, 36), of_tokens, top_ids, torch.empty(6, 2))
    assert of_tokens.isnan().tolist() == [False, True, True, True, True, False]
    assert top_ids.tolist() == logits.topk(2).indices.tolist()


@dataclass
class Settings:
    """Of `sample` for five rows; a test spoils those of row 2."""

    temperature: Tensor = field(default_factory=lambda: torch.full((5,), 0.7))
    top_k: Tensor = field(default_factory=lambda: i32(0, 5, 9, 0, 3))
    top_p: Tensor = field(default_factory=lambda: torch.full((5,), 0.9))
    sequence_indices: Tensor = field(default_factory=lambda: i32(0, 1, 2, 3, 4))
    positions: Tensor = field(default_factory=lambda: i32(0, 1, 2, 3, 4))
    min_p: Tensor = field(default_factory=lambda: torch.full((5,), 0.01))
    typical_p: Tensor = field(default_factory=lambda: torch.full((5,), 0.95))
    repetition: Tensor = field(default_factory=lambda: torch.full((5,), 1.5))
    presence: Tensor = field(default_factory=lambda: torch.full((5,), 0.5))
    frequency: Tensor = field(default_factory=lambda: torch.full((5,), 0.5))
    seen_starts: Tensor = field(default_factory=lambda: i32(0, 1, 2, 4, 4, 5))
    seen_ids: Tensor = field(default_factory=lambda: i32(3, 5, 3, 7, 1))
    seen_counts: Tensor = field(default_factory=lambda: i32(1, 0, 2, 1, 1))
    bias_starts: Tensor = field(default_factory=lambda: i32(0, 0, 1, 3, 4, 4))
    bias_ids: Tensor = field(default_factory=lambda: i32(2, 2, 9, 2))
    bias_values: Tensor = field(default_factory=lambda: torch.full((4,), 0.25))

    def sample(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        ids, logprobs = poisoned(5, dtype=torch.int32), poisoned(5, dtype=torch.float32)
        ops.sample(
            logits,
            self.temperature,
            self.top_k,
            self.top_p,
            torch.arange(5),
            self.sequence_indices,
            self.positions,
            ids,
            logprobs,
            min_p=self.min_p,
            typical_p=self.typical_p,
            penalties=ops.Penalties(
                self.repetition,
                self.presence,
                self.frequency,
                self.seen_starts,
                self.seen_ids,
                self.seen_counts,
            ),
            biases=ops.Biases(self.bias_starts, self.bias_ids, self.bias_values),
            workspace=torch.empty(ops.sample_workspace_bytes(5, 37), dtype=torch.uint8),
        )
        return ids, logprobs


@pytest.mark.parametrize(
    ("setting", "idx", "bad"),
    [
        *(("temperature", 2, bad) for bad in (-1.0, math.nan, math.inf)),
        ("top_k", 2, -1),
        *(("top_p", 2, bad) for bad in (0.0, -0.5, 1.5, math.nan)),
        ("sequence_indices", 2, -1),
        ("positions", 2, -1),
        *(("min_p", 2, bad) for bad in (-0.5, 1.5, math.nan)),
        *(("typical_p", 2, bad) for bad in (0.0, 1.5, math.nan)),
        *(("repetition", 2, bad) for bad in (0.0, -1.0, math.nan, math.inf)),
        *(("presence", 2, bad) for bad in (math.nan, math.inf)),
        *(("frequency", 2, bad) for bad in (math.nan, -math.inf)),
        *(("seen_ids", 3, bad) for bad in BAD_INDICES),
        ("seen_counts", 2, -1),
        *(("bias_ids", 1, bad) for bad in BAD_INDICES),
        *(("bias_values", 1, bad) for bad in (math.nan, math.inf)),
    ],
)
def test_a_bad_setting_spoils_its_own_row(setting: str, idx: int, bad: float) -> None:
    logits, settings = randn(5, 37), Settings()
    clean_ids, clean_logprobs = settings.sample(logits)
    assert (clean_ids >= 0).all()
    getattr(settings, setting)[idx] = bad
    ids, logprobs = settings.sample(logits)
    assert ids[2] == -1
    assert logprobs[2].isnan()
    others = torch.tensor([0, 1, 3, 4])
    assert_bitwise_equal(ids[others], clean_ids[others])
    assert_bitwise_equal(logprobs[others], clean_logprobs[others])


@pytest.mark.parametrize("setting", ["seen_starts", "bias_starts"])
@pytest.mark.parametrize("bounds", [(3, 2), (-1, 2), (1, 2**31 - 1), (-(2**31), 2**31 - 1)])
def test_entries_outside_of_all_are_not_read(setting: str, bounds: tuple[int, int]) -> None:
    """Neighbours that share a bound with the row may fail with it; the others may not."""
    logits, settings = randn(5, 37), Settings()
    clean_ids, _ = settings.sample(logits)
    getattr(settings, setting)[2:4] = i32(*bounds)
    ids, logprobs = settings.sample(logits)
    assert ids[2] == -1
    assert logprobs[2].isnan()
    assert ids[[0, 4]].tolist() == clean_ids[[0, 4]].tolist()


def test_penalties_and_biases_need_a_workspace() -> None:
    rows = torch.ones(2), i32(0, 0), torch.ones(2), torch.zeros(2, dtype=torch.int64)
    outs = torch.empty(2, dtype=torch.int32), torch.empty(2)
    biases = ops.Biases(i32(0, 1, 1), i32(3), torch.ones(1))
    for num_bytes in (None, 2 * 37 * 4 - 1):
        workspace = None if num_bytes is None else torch.empty(num_bytes, dtype=torch.uint8)
        message = f"workspace has {num_bytes or 0} bytes, penalties and biases need 296"
        with pytest.raises(ops.Error, match=message):
            ops.sample(
                randn(2, 37), *rows, i32(0, 0), i32(0, 1), *outs, biases=biases, workspace=workspace
            )


def test_biases_of_one_token_add_up_in_order() -> None:
    """2^24 + 1 + 1 stays 2^24 in float32, and 1 + 1 + 2^24 does not: one row is below token 0."""
    large = 2.0**24
    biases = ops.Biases(
        i32(0, 4, 8),
        i32(2, 2, 2, 0).repeat(2),
        torch.tensor([large, 1.0, 1.0, large, 1.0, 1.0, large, large]),
    )
    rows = torch.zeros(2), i32(0, 0), torch.ones(2), torch.zeros(2, dtype=torch.int64)
    ids = torch.empty(2, dtype=torch.int32)
    workspace = torch.empty(ops.sample_workspace_bytes(2, 4), dtype=torch.uint8)
    ops.sample(
        torch.zeros(2, 4), *rows, i32(0, 0), i32(0, 1), ids, torch.empty(2),
        biases=biases, workspace=workspace,
    )  # fmt: skip
    assert ids.tolist() == [0, 2]


def test_int8_rows_are_a_cpus() -> None:
    x, weight = randn(2, 32), randn(32)
    rows = torch.empty(2, ops.quantized_row_bytes(32), dtype=torch.int8)
    with pytest.raises(ops.Error, match="quantize: int8 rows are not supported on CUDA"):
        ops.quantize(x, rows)
    with pytest.raises(ops.Error, match="rms_norm: out is int8, which is not supported on CUDA"):
        ops.rms_norm(x, weight, 1e-5, rows)
    with pytest.raises(ops.Error, match="layer_norm: out is int8, which is not supported on CUDA"):
        ops.layer_norm(x, weight, weight, 1e-5, rows)
