"""Every member of the family: its real shape, and a scaled-down one that tests can run.

The table of phi3-spec section 1.1. The factor lists are not the real ones, but have their number,
their range and their slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCALE = 64
"""By which every length is divided in a scaled-down member: 4096 tokens are 64."""


@dataclass(frozen=True)
class Member:
    """One row of the table.

    billion_params: to check the others by. rotated: dims of a head that rotate. rope_type: as the
    checkpoint's rope_scaling names it, None without. short, long: the smallest and the largest
    factor. head_divisor: by which a scaled-down member has fewer heads of either kind.
    """

    name: str
    billion_params: float
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    theta: float
    rotated: int
    max_positions: int
    original: int
    window: int | None = None
    tied: bool = False
    rope_type: str | None = None
    short: tuple[float, float] = (1.0, 1.0)
    long: tuple[float, float] = (1.0, 1.0)
    head_divisor: int = 1
    model_type: str = "phi3"

    @property
    def rope_scaling(self) -> dict[str, Any] | None:
        """In transformers 4's dialect."""
        if self.rope_type is None:
            return None
        return {
            "type": self.rope_type,
            "short_factor": geometric(*self.short, self.rotated // 2),
            "long_factor": geometric(*self.long, self.rotated // 2),
        }

    def config(self) -> dict[str, Any]:
        """config.json of the checkpoint that was published, in transformers 4's dialect."""
        common = {
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.max_positions,
            "torch_dtype": "bfloat16",
        }
        scaling = self.rope_scaling
        if self.model_type == "phi3small":
            if scaling is not None:
                scaling["original_max_position_embeddings"] = self.original
            return common | {
                "ff_intermediate_size": self.mlp,
                "rope_embedding_base": self.theta,
                "rope_scaling": scaling,
            }
        return common | {
            "architectures": ["Phi3ForCausalLM"],
            "intermediate_size": self.mlp,
            "original_max_position_embeddings": self.original,
            "rope_theta": self.theta,
            "rope_scaling": scaling,
            "partial_rotary_factor": self.rotated / self.head_dim,
            "sliding_window": self.window,
            "tie_word_embeddings": self.tied,
        }

    def scaled(self) -> dict[str, Any]:
        """Arguments of `make_checkpoint`, or of `make_small_checkpoint`: two layers, fewer heads,
        shorter, narrower."""
        heads = self.heads // self.head_divisor
        if self.model_type == "phi3small":
            scaling = self.rope_scaling
            if scaling is not None:
                scaling["original_max_position_embeddings"] = self.original // SCALE
            return {
                "dtype": "bfloat16",
                "hidden_size": heads * self.head_dim,
                "num_hidden_layers": 2,
                "num_attention_heads": heads,
                "num_key_value_heads": self.kv_heads // self.head_divisor,
                "ff_intermediate_size": self.mlp // self.head_divisor // 4,
                "max_position_embeddings": self.max_positions // SCALE,
                "rope_embedding_base": self.theta,
                "rope_scaling": scaling,
                "blocksparse_block_size": 16,  # 64 tokens would be one
                "blocksparse_num_local_blocks": 2,
                "blocksparse_vert_stride": 8,
            }
        rope: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": self.theta,
            "partial_rotary_factor": self.rotated / self.head_dim,
        }
        scaling = self.rope_scaling
        if scaling is not None:
            rope |= scaling | {"rope_type": "longrope"}
        return {
            "dtype": "bfloat16",
            "hidden_size": heads * self.head_dim,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "num_key_value_heads": self.kv_heads // self.head_divisor,
            "intermediate_size": self.mlp // self.head_divisor // 4,
            "max_position_embeddings": self.max_positions // SCALE,
            "original_max_position_embeddings": self.original // SCALE,
            "rope_parameters": rope,
            "sliding_window": self.window and self.window // SCALE,
            "tie_word_embeddings": self.tied,
            "initializer_range": 1.2 * (heads * self.head_dim) ** -0.5,
        }


def geometric(first: float, last: float, length: int) -> list[float]:
    return [first * (last / first) ** (i / (length - 1)) for i in range(length)]


MINI: dict[str, Any] = {
    "billion_params": 3.8211, "hidden": 3072, "layers": 32, "heads": 32, "kv_heads": 32,
    "head_dim": 96, "mlp": 8192, "vocab": 32064, "theta": 1e4, "rotated": 96, "original": 4096,
    "head_divisor": 16,
}  # fmt: skip
MEDIUM: dict[str, Any] = {
    "billion_params": 13.9602, "hidden": 5120, "layers": 40, "heads": 40, "kv_heads": 10,
    "head_dim": 128, "mlp": 17920, "vocab": 32064, "theta": 1e4, "rotated": 128, "original": 4096,
    "head_divisor": 5,
}  # fmt: skip
PHI_4: dict[str, Any] = MEDIUM | {"billion_params": 14.6595, "vocab": 100352}
PHI_4_MINI: dict[str, Any] = {
    "billion_params": 3.8360, "hidden": 3072, "layers": 32, "heads": 24, "kv_heads": 8,
    "head_dim": 128, "mlp": 8192, "vocab": 200064, "theta": 1e4, "rotated": 96, "original": 4096,
    "max_positions": 131072, "window": 262144, "tied": True,
    "rope_type": "longrope", "long": (1.0, 47.77), "head_divisor": 4,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "billion_params": 7.3923, "hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8,
    "head_dim": 128, "mlp": 14336, "vocab": 100352, "theta": 1e6, "rotated": 128, "original": 8192,
    "tied": True, "head_divisor": 4, "model_type": "phi3small",
}  # fmt: skip

FAMILY = (
    Member("Phi-3-mini-4k", **MINI, max_positions=4096, window=2047),
    Member(
        "Phi-3-mini-128k", **MINI, max_positions=131072, window=262144,
        rope_type="su", short=(1.05, 3.0), long=(1.03, 65.0),
    ),
    Member(
        "Phi-3.5-mini", **MINI, max_positions=131072, window=262144,
        rope_type="longrope", short=(1.0, 2.84), long=(1.08, 64.9),
    ),
    Member("Phi-3-small-8k", **SMALL, max_positions=8192),
    Member(
        "Phi-3-small-128k", **SMALL, max_positions=131072,
        rope_type="su", short=(1.0, 1.9), long=(1.0, 34.0),
    ),
    Member("Phi-3-medium-4k", **MEDIUM, max_positions=4096, window=2047),
    Member(
        "Phi-3-medium-128k", **MEDIUM, max_positions=131072, window=131072,
        rope_type="su", short=(1.0, 2.9), long=(1.0, 62.4),
    ),
    Member("Phi-4", **PHI_4 | {"theta": 250000.0, "original": 16384}, max_positions=16384),
    Member("Phi-4-reasoning", **PHI_4 | {"theta": 5e5, "original": 32768}, max_positions=32768),
    Member("Phi-4-mini", **PHI_4_MINI),
    Member("Phi-4-mini-reasoning", **PHI_4_MINI),
)  # fmt: skip
