"""Tiny random Phi-3 checkpoints, written by transformers in Hugging Face layout.

`make_checkpoint` is the general form; `make_tiny_causal`, `make_tiny_sequence` and
`make_tiny_token` are the three tasks. Every folder also holds a byte-level tokenizer.json and a
chat template, so the text layer and the engine can load it too. Weights are random but fixed by
`seed`; norm weights are not ones, so a forgotten norm shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
BOS_TOKEN_ID, PAD_TOKEN_ID, END_TOKEN_ID = 256, 257, 261  # the 256 bytes come first
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)


def longrope(rotary_dim: int, original: int) -> dict[str, Any]:
    """Rope parameters with two distinct factor sets of `rotary_dim / 2` numbers each."""
    half = rotary_dim // 2
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.05 * i for i in range(half)],
        "long_factor": [1.5 + 0.7 * i for i in range(half)],
        "original_max_position_embeddings": original,
    }


def make_config(**overrides: Any) -> transformers.Phi3Config:
    """A tiny config: 2 layers, 4 heads of 16 over 2 kv heads. `original=N` switches LongRoPE on."""
    original = overrides.pop("original", None)
    partial = overrides.pop("partial_rotary_factor", 1.0)
    fields: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "bos_token_id": BOS_TOKEN_ID,
        "eos_token_id": PAD_TOKEN_ID,
        "pad_token_id": PAD_TOKEN_ID,
        "sliding_window": None,
        "attn_implementation": "eager",
    } | overrides
    head_dim = fields["hidden_size"] // fields["num_attention_heads"]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
    if original is not None:
        fields["original_max_position_embeddings"] = original
        rope = longrope(int(head_dim * partial), original)
    fields.setdefault("rope_parameters", rope | {"partial_rotary_factor": partial})
    return transformers.Phi3Config(**fields)


def write_tokenizer(path: Path) -> None:
    """A byte-level BPE without merges: id = byte for 0..255, then `SPECIAL_TOKENS`."""
    alphabet = _byte_alphabet()
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def make_checkpoint(
    path: Path,
    architecture: str = "Phi3ForCausalLM",
    *,
    dtype: str = "float32",
    seed: int = 0,
    labels: tuple[str, ...] = (),
    max_shard_size: str = "5GB",
    **overrides: Any,
) -> Path:
    """Write a random checkpoint into `path` (made when absent) and return `path`.

    architecture: a transformers class name. overrides: fields of `Phi3Config`, and `original=N` for
    LongRoPE with that original length. labels: id2label of a classifier.
    """
    path.mkdir(parents=True, exist_ok=True)
    if labels:
        overrides["id2label"] = dict(enumerate(labels))
        overrides["label2id"] = {label: i for i, label in enumerate(labels)}
    config = make_config(**overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, architecture)(config)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            elif name.endswith("score.bias"):
                torch.nn.init.normal_(parameter, std=0.5)
            elif name.endswith("embed_tokens.weight") and config.pad_token_id is not None:
                # transformers zeroes the pad token's row, which would hide its use.
                torch.nn.init.normal_(parameter[config.pad_token_id], std=0.15)
    model.to(getattr(torch, dtype)).save_pretrained(path, max_shard_size=max_shard_size)
    generation = {"bos_token_id": BOS_TOKEN_ID, "eos_token_id": [PAD_TOKEN_ID, END_TOKEN_ID]}
    (path / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer(path)
    return path


def make_tiny_causal(path: Path, **overrides: Any) -> Path:
    """A generation checkpoint. LongRoPE with original length 32 unless `original=None` is given."""
    return make_checkpoint(path, "Phi3ForCausalLM", **({"original": 32} | overrides))


def make_tiny_sequence(path: Path, **overrides: Any) -> Path:
    """A sequence classifier with three labels."""
    labels = {"labels": ("negative", "neutral", "positive")}
    return make_checkpoint(
        path, "Phi3ForSequenceClassification", **({"original": 32} | labels | overrides)
    )


def make_tiny_token(path: Path, **overrides: Any) -> Path:
    """A token classifier with five IOB labels and a bias."""
    labels = {"labels": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")}
    return make_checkpoint(
        path, "Phi3ForTokenClassification", **({"original": 32} | labels | overrides)
    )


def rescale(path: Path, rope: dict[str, Any], **fields: Any) -> Path:
    """Write `rope` over rope_parameters, of types too that transformers' Phi3Config refuses.

    fields: other fields of config.json to replace.
    """
    config = json.loads((path / "config.json").read_text()) | fields
    config["rope_parameters"] |= rope
    (path / "config.json").write_text(json.dumps(config, indent=2))
    return path


def to_old_dialect(path: Path, name: str = "longrope") -> Path:
    """Rewrite config.json as transformers 4 did: rope_scaling, rope_theta, torch_dtype.

    name: what LongRoPE is called, "su" for instance.
    """
    config = json.loads((path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = rope["rope_theta"]
    config["partial_rotary_factor"] = rope.get("partial_rotary_factor", 1.0)
    config["rope_scaling"] = None
    if rope["rope_type"] == "longrope":
        factors = {name: rope[name] for name in ("short_factor", "long_factor")}
        config["rope_scaling"] = {"type": name} | factors
    (path / "config.json").write_text(json.dumps(config, indent=2))
    return path


def _byte_alphabet() -> list[str]:
    """The byte-level character of every byte, in byte order (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]
