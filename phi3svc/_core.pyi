"""Stub of the compiled extension; tests/ops/test_core_stub.py holds it to the built module."""

from torch import Tensor

_Packed = Tensor | tuple[Tensor, str, int]

class Error(ValueError): ...

class Run:
    def wait(self) -> bool: ...
    @property
    def seconds(self) -> float: ...

class Program:
    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...
    def run(self) -> bool: ...
    def wait(self) -> None: ...
    def start(self, after: Run | None = None) -> Run: ...

def copy(source: Tensor, out: Tensor) -> None: ...
def end_on(token_ids: Tensor, end_ids: Tensor) -> None: ...
def pack_linear(weight: Tensor, out: _Packed, row_errors: Tensor | None = None) -> None: ...
def pack_gate_up(weight: Tensor, out: _Packed, row_errors: Tensor | None = None) -> None: ...
def pack_qkv(
    weight: Tensor,
    out: _Packed,
    row_errors: Tensor | None = None,
    *,
    num_rotated_heads: int,
    head_dim: int,
    rotary_dim: int,
) -> None: ...
def unpack_linear(packed: _Packed, out: Tensor) -> None: ...
def unpack_gate_up(packed: _Packed, out: Tensor) -> None: ...
def quantize(x: Tensor, out: Tensor) -> None: ...
def packed_panel_bytes(format: str, in_features: int) -> int: ...
def quantized_row_bytes(in_features: int) -> int: ...
def embedding(
    token_ids: Tensor, table: _Packed, out: Tensor, *, vocab_size: int, scale: float = 1.0
) -> None: ...
def rms_norm(h: Tensor, weight: Tensor, out: Tensor, *, eps: float) -> None: ...
def layer_norm(h: Tensor, weight: Tensor, bias: Tensor, out: Tensor, *, eps: float) -> None: ...
def qkv_rope(
    x: Tensor,
    weight: _Packed,
    positions: Tensor,
    rope_sets: Tensor,
    rope_table: Tensor,
    slots: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    q_out: Tensor,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    bias: Tensor | None = None,
) -> None: ...
def attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    out: Tensor,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    *,
    window: int,
    scale: float,
    block_sparse: tuple[int, int, int, int] | None = None,
    workspace: Tensor | None = None,
) -> None: ...
def attention_workspace_bytes(
    num_tokens: int, num_heads: int, head_dim: int, table_len: int
) -> int: ...
def linear(
    x: Tensor,
    weight: _Packed,
    out: Tensor,
    bias: Tensor | None = None,
    *,
    accumulate: bool = False,
) -> None: ...
def mlp(
    x: Tensor,
    gate_up: _Packed,
    down: _Packed,
    act: Tensor,
    h: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    *,
    gegelu_limit: float | None = None,
    quantized_act: Tensor | None = None,
) -> None: ...
def lm_head(
    h: Tensor,
    rows: Tensor,
    norm_weight: Tensor,
    weight: _Packed,
    normed: Tensor,
    logits: Tensor,
    norm_bias: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float,
    scale: float = 1.0,
) -> None: ...
def classify_head(
    h: Tensor,
    rows: Tensor,
    norm_weight: Tensor,
    weight: _Packed,
    bias: Tensor | None,
    normed: Tensor,
    scores: Tensor,
    norm_bias: Tensor | None = None,
    *,
    eps: float,
) -> None: ...
def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seeds: Tensor,
    sequence_indices: Tensor,
    positions: Tensor,
    out_ids: Tensor,
    out_logprobs: Tensor,
    *,
    min_p: Tensor | None = None,
    typical_p: Tensor | None = None,
    repetition: Tensor | None = None,
    presence: Tensor | None = None,
    frequency: Tensor | None = None,
    seen_starts: Tensor | None = None,
    seen_ids: Tensor | None = None,
    seen_counts: Tensor | None = None,
    bias_starts: Tensor | None = None,
    bias_ids: Tensor | None = None,
    bias_values: Tensor | None = None,
    workspace: Tensor | None = None,
) -> None: ...
def sample_workspace_bytes(num_rows: int, vocab_size: int) -> int: ...
def logprobs(
    logits: Tensor,
    token_ids: Tensor,
    out_logprobs: Tensor,
    out_top_ids: Tensor,
    out_top_logprobs: Tensor,
) -> None: ...
def backend(device_type: str) -> str: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def set_num_threads(num_threads: int) -> None: ...
def num_threads() -> int: ...
def set_pin_threads(pin: bool) -> None: ...
def pin_threads() -> bool: ...
def set_kernel_policy(name: str) -> None: ...
def build_info() -> dict[str, str]: ...
