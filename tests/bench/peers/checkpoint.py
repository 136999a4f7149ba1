"""The checkpoint that every engine runs: the shape of Phi-3-mini, with random weights.

No sliding window: engines differ in whether they heed Phi-3-mini-4k's of 2047 tokens.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, MLP, HEADS, VOCAB, CONTEXT = 3072, 8192, 32, 32064, 4096
SEED = 0
DEVIATION = 0.02
END = "<|endoftext|>"


def config(num_layers: int) -> dict[str, object]:
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": num_layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "original_max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-5,
        "initializer_range": DEVIATION,
        "sliding_window": None,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def parts(num_layers: int) -> list[dict[str, tuple[int, ...]]]:
    """Names and shapes, one dictionary per file: the embedding, each layer, the head."""
    layers = []
    for i in range(num_layers):
        prefix = f"model.layers.{i}."
        layers.append(
            {
                f"{prefix}input_layernorm.weight": (HIDDEN,),
                f"{prefix}self_attn.qkv_proj.weight": (3 * HIDDEN, HIDDEN),
                f"{prefix}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
                f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
                f"{prefix}mlp.gate_up_proj.weight": (2 * MLP, HIDDEN),
                f"{prefix}mlp.down_proj.weight": (HIDDEN, MLP),
            }
        )
    head = {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    return [{"model.embed_tokens.weight": (VOCAB, HIDDEN)}, *layers, head]


def num_streamed_weights(num_layers: int) -> int:
    """Those that a token's step reads: all matrices but the embedding."""
    layer = 3 * HIDDEN * HIDDEN + HIDDEN * HIDDEN + 3 * MLP * HIDDEN
    return num_layers * layer + VOCAB * HIDDEN


def write(path: Path, num_layers: int) -> None:
    """The same bytes every time; nothing stays behind at `path` if it fails."""
    temporary = path.with_name(path.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    generator = torch.Generator().manual_seed(SEED)
    files = parts(num_layers)
    weight_map, num_bytes = {}, 0
    for i, shapes in enumerate(files):
        file = f"model-{i + 1:05}-of-{len(files):05}.safetensors"
        tensors = {}
        for name, shape in shapes.items():
            if len(shape) == 1:
                tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
            else:
                noise = torch.empty(shape).normal_(std=DEVIATION, generator=generator)
                tensors[name] = noise.bfloat16()
            num_bytes += 2 * tensors[name].numel()
        save_file(tensors, temporary / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shapes, file)
        print(f"  wrote {file}", flush=True)
    _write_json(
        temporary / "model.safetensors.index.json",
        {"metadata": {"total_size": num_bytes}, "weight_map": weight_map},
    )
    _write_json(temporary / "config.json", config(num_layers))
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    _write_json(temporary / "generation_config.json", ends)
    _write_tokenizer(temporary)
    temporary.rename(path)


def _write_tokenizer(path: Path) -> None:
    """Bytes and a few merges: converters want one, the benchmark speaks in token ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(END, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 3, trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    _write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "pad_token": END,
            "unk_token": END,
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
        },
    )
    specials = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END)
    _write_json(path / "special_tokens_map.json", specials)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
