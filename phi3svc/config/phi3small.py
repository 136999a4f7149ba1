"""config.json of Phi-3-small, after Microsoft's `configuration_phi3_small.py`.

Sizes must be given; all else has that file's defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from phi3svc.config.common_fields import (
    read_architecture,
    read_dtype,
    read_eos_token_ids,
    read_head_dim,
    read_labels,
    read_num_kv_heads,
    read_problem_type,
    read_token_id,
)
from phi3svc.config.generation_defaults import read_generation_defaults
from phi3svc.config.json_file import Fields
from phi3svc.config.model import Phi3Config, Phi3SmallSettings, Task
from phi3svc.config.rope import LEAST, MAX_POSITIONS, RopeConfig, longrope_attention_factor

TASKS: Mapping[str, Task] = {
    "Phi3SmallForCausalLM": "generation",
    "Phi3SmallForSequenceClassification": "sequence-classification",
    "Phi3SmallModel": "hidden-states",
}
BLOCK_SIZES = (16, 32, 64, 128, 256)
_END_OF_TEXT_ID = 100257
_END_ID = 100266  # `<|end|>`, behind every turn


def read_phi3small(fields: Fields, generation: Fields) -> Phi3Config:
    """Raises ConfigError naming field, value and range."""
    fields.choice("hidden_act", ("gegelu",), "gegelu")
    architecture = read_architecture(fields, TASKS)
    task = TASKS[architecture]
    hidden_size = fields.integer("hidden_size", 1, 1 << 17)
    num_heads = fields.integer("num_attention_heads", 1, 1 << 12)
    head_dim = read_head_dim(fields, hidden_size, num_heads)
    max_positions = fields.integer("max_position_embeddings", 1, MAX_POSITIONS)
    vocab_size = fields.integer("vocab_size", 1, 1 << 22)
    eos_ids = set(read_eos_token_ids(fields, generation, vocab_size, _END_OF_TEXT_ID))
    rope = _rope(fields, head_dim, max_positions)
    return Phi3Config(
        model_type="phi3small",
        architecture=architecture,
        task=task,
        hidden_size=hidden_size,
        intermediate_size=_mlp_width(fields, hidden_size),
        num_hidden_layers=fields.integer("num_hidden_layers", 1, 1 << 10),
        num_attention_heads=num_heads,
        num_key_value_heads=read_num_kv_heads(fields, num_heads),
        head_dim=head_dim,
        vocab_size=vocab_size,
        max_position_embeddings=max_positions,
        original_max_position_embeddings=rope.original_max_position_embeddings or max_positions,
        rms_norm_eps=fields.number("layer_norm_epsilon", 0.0, 1.0, 1e-5),
        rope=rope,
        # Microsoft's class ties by `_tied_weights_keys`, whether or not the config says so.
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        dtype=read_dtype(fields),
        bos_token_id=read_token_id(fields, "bos_token_id", _END_OF_TEXT_ID, vocab_size),
        # A turn ends in it, and the first config.json did not say so.
        eos_token_ids=tuple(sorted(eos_ids | ({_END_ID} if vocab_size > _END_ID else set()))),
        pad_token_id=read_token_id(fields, "pad_token_id", None, vocab_size),
        labels=read_labels(fields, task),
        problem_type=read_problem_type(fields),
        use_cache=fields.flag("use_cache", True),
        initializer_range=fields.number("initializer_range", 0.0, 100.0, 0.02),
        generation=read_generation_defaults(generation),
        small=_small(fields, head_dim, num_heads),
    )


def _small(fields: Fields, head_dim: int, num_heads: int) -> Phi3SmallSettings:
    attention_scale = head_dim**-0.5
    if fields.flag("mup_use_scaling", True):
        attention_scale = fields.number("mup_attn_multiplier", LEAST, 1e6, 1.0) / head_dim
    vertical_stride = fields.integer("blocksparse_vert_stride", 1, 1 << 20, 8)
    is_homogeneous = fields.flag("blocksparse_homo_head_pattern", False)
    block_size = fields.integer("blocksparse_block_size", 1, 1 << 20, 64)
    if block_size not in BLOCK_SIZES:
        fields.fail("blocksparse_block_size", f"one of {', '.join(map(str, BLOCK_SIZES))}")
    return Phi3SmallSettings(
        embedding_multiplier=_multiplier(fields, "mup_embedding_multiplier", 10.0),
        width_multiplier=_multiplier(fields, "mup_width_multiplier", 8.0),
        attention_scale=attention_scale,
        gegelu_limit=math.inf
        if _is_null(fields, "gegelu_limit")
        else fields.number("gegelu_limit", LEAST, 1e6, 20.0),
        block_size=block_size,
        num_local_blocks=fields.integer("blocksparse_num_local_blocks", 1, 1 << 20, 16),
        vertical_stride=vertical_stride,
        head_step=0 if is_homogeneous else max(1, vertical_stride // num_heads),
        dense_every=0
        if _is_null(fields, "dense_attention_every_n_layers")
        else fields.integer("dense_attention_every_n_layers", 0, 1 << 10, 2),
    )


def _multiplier(fields: Fields, name: str, default: float) -> float:
    """null and 0 turn it off."""
    value = fields.values.get(name, default)
    is_off = value is None or (value == 0 and not isinstance(value, bool))
    return 1.0 if is_off else fields.number(name, LEAST, 1e6, default)


def _is_null(fields: Fields, name: str) -> bool:
    return name in fields.values and fields.values[name] is None


def _mlp_width(fields: Fields, hidden_size: int) -> int:
    multiplier = fields.optional_integer("ff_dim_multiplier", 1, 64)
    width = fields.optional_integer("ff_intermediate_size", 1, 1 << 19)
    if (multiplier is None) == (width is None):
        fields.fail("ff_intermediate_size", "an integer, or else one for ff_dim_multiplier")
    if width is None:
        assert multiplier is not None
        width = multiplier * (hidden_size // 3) * 2
        if fields.flag("gegelu_pad_to_256", True):
            width = -(-width // 256) * 256
    return width


def _rope(fields: Fields, head_dim: int, max_positions: int) -> RopeConfig:
    theta = fields.number("rope_embedding_base", 1.0, 1e15, 1e6)
    scaling = fields.object("rope_scaling")
    if not scaling:
        position_scale = fields.number("rope_position_scale", 0.0, 1e6, 1.0)
        return RopeConfig("default", theta, head_dim, position_scale=position_scale)
    rope = Fields(scaling, fields.where, "rope_scaling.")
    rope.choice("rope_type" if "rope_type" in scaling else "type", ("longrope", "su"), "longrope")
    original = rope.integer("original_max_position_embeddings", 2, MAX_POSITIONS)
    long_default = longrope_attention_factor(max_positions / original, original)
    return RopeConfig(
        "longrope",
        theta,
        head_dim,
        attention_factors=(
            _mscale(rope, "short_mscale", 1.0),
            _mscale(rope, "long_mscale", long_default),
        ),
        short_factor=rope.numbers("short_factor", head_dim // 2, LEAST, 1e6),
        long_factor=rope.numbers("long_factor", head_dim // 2, LEAST, 1e6),
        original_max_position_embeddings=original,
    )


def _mscale(rope: Fields, name: str, default: float) -> float:
    """Microsoft writes -1 where the default holds."""
    value = rope.values.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and -1.0 <= value <= 0.0:
        return default
    return rope.number(name, 0.0, 1e3, default)
