"""Tiny random Phi-3-small checkpoints, with the names and layout of Microsoft's.

transformers has no such class, so the weights are drawn here. All are large enough to matter: a
bias that is forgotten, or a norm, shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.model.checkpoints import END_TOKEN_ID, PAD_TOKEN_ID, write_tokenizer

DEFAULTS: dict[str, Any] = {
    "architectures": ["Phi3SmallForCausalLM"],
    "model_type": "phi3small",
    "attention_dropout_prob": 0.0,
    "blocksparse_block_size": 16,
    "blocksparse_homo_head_pattern": False,
    "blocksparse_num_local_blocks": 2,
    "blocksparse_triton_kernel_block_size": 64,
    "blocksparse_vert_stride": 4,
    "bos_token_id": PAD_TOKEN_ID,
    "dense_attention_every_n_layers": 2,
    "eos_token_id": PAD_TOKEN_ID,
    "ff_dim_multiplier": None,
    "ff_intermediate_size": 112,
    "gegelu_limit": 20.0,
    "gegelu_pad_to_256": True,
    "hidden_act": "gegelu",
    "hidden_size": 128,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 512,
    "mup_attn_multiplier": 1.0,
    "mup_embedding_multiplier": 10.0,
    "mup_use_scaling": True,
    "mup_width_multiplier": 8.0,
    "num_attention_heads": 8,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rope_embedding_base": 1000000,
    "rope_position_scale": 1.0,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
    "vocab_size": 300,
}


def longrope(head_dim: int, original: int, **more: Any) -> dict[str, Any]:
    """rope_scaling of a 128k member, scaled down."""
    half = head_dim // 2
    return {
        "type": "su",
        "short_factor": [1.0 + 0.05 * i for i in range(half)],
        "long_factor": [1.5 + 0.7 * i for i in range(half)],
        "original_max_position_embeddings": original,
        **more,
    }


def make_small_checkpoint(
    path: Path, *, dtype: str = "float32", seed: int = 0, num_labels: int = 0, **overrides: Any
) -> Path:
    """Write a random checkpoint into `path` and return it. overrides: fields of config.json.

    `original=N` switches LongRoPE on. num_labels makes it a sequence classifier.
    """
    path.mkdir(parents=True, exist_ok=True)
    original = overrides.pop("original", None)
    config = DEFAULTS | {"torch_dtype": dtype} | overrides
    if original is not None:
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        config["rope_scaling"] = longrope(head_dim, original)
    if num_labels:
        config["architectures"] = ["Phi3SmallForSequenceClassification"]
        config["num_labels"] = num_labels
        config["pad_token_id"] = PAD_TOKEN_ID
    (path / "config.json").write_text(json.dumps(config, indent=2))
    generation = {"eos_token_id": [PAD_TOKEN_ID, END_TOKEN_ID]}
    (path / "generation_config.json").write_text(json.dumps(generation))
    tensors = random_tensors(config, getattr(torch, dtype), seed)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    write_tokenizer(path)
    return path


def random_tensors(config: dict[str, Any], dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, width = config["hidden_size"], config["ff_intermediate_size"]
    num_heads, num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    qkv = (num_heads + 2 * num_kv_heads) * (hidden // num_heads)

    def normal(*shape: int, std: float = 0.15) -> Tensor:
        return (torch.randn(shape, generator=generator) * std).to(dtype)

    def norm(name: str, scale: float = 1.0) -> dict[str, Tensor]:
        weight = (torch.rand(hidden, generator=generator) + 0.5) * scale
        return {f"{name}.weight": weight.to(dtype), f"{name}.bias": normal(hidden)}

    def linear(name: str, num_rows: int, num_columns: int, std: float = 0.15) -> dict[str, Tensor]:
        weight = normal(num_rows, num_columns, std=std)
        return {f"{name}.weight": weight, f"{name}.bias": normal(num_rows, std=0.3)}

    tensors = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden, std=0.1)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        tensors |= norm(f"{layer}.input_layernorm")
        # Queries and keys are this large because scores are divided by D and not by its root.
        tensors |= linear(f"{layer}.self_attn.query_key_value", qkv, hidden, std=0.3)
        tensors |= linear(f"{layer}.self_attn.dense", hidden, hidden)
        tensors |= norm(f"{layer}.post_attention_layernorm")
        tensors |= linear(f"{layer}.mlp.up_proj", 2 * width, hidden)
        tensors |= linear(f"{layer}.mlp.down_proj", hidden, width)
        half_dim = hidden // num_heads // 2
        tensors[f"{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(half_dim)
    tensors |= norm("model.final_layernorm", scale=12.0)  # logits are divided by 8
    if config["architectures"] == ["Phi3SmallForSequenceClassification"]:
        tensors["score.weight"] = normal(config["num_labels"], hidden)
    return tensors
