"""Say what a checkpoint is and what it needs, without loading it."""

from __future__ import annotations

import argparse
import json

from phi3svc.config.checkpoint import fingerprint, resolve_source
from phi3svc.config.model import BYTES_PER_ELEMENT, DType, KVDType, Phi3Config

DTYPES: tuple[DType, ...] = ("float32", "bfloat16")
KV_DTYPES: tuple[KVDType, ...] = (*DTYPES, "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="local folder, hub id, or an embedded model's name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    checkpoint = resolve_source(args.source)
    facts = describe(Phi3Config.from_dir(checkpoint.path))
    facts |= {"folder": str(checkpoint.path), "fingerprint": fingerprint(checkpoint.path)}
    if args.json:
        print(json.dumps(facts))
        return 0
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):{width}}{_readable(name, value)}")
    return 0


def describe(config: Phi3Config) -> dict[str, object]:
    """The facts by name; sizes in bytes."""
    facts: dict[str, object] = {
        "architecture": config.architecture,
        "task": config.task,
        "parameters": config.num_params,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": f"{config.num_attention_heads} query, {config.num_key_value_heads} key/value, "
        f"head dim {config.head_dim}",
        "mlp_width": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "context_tokens": config.max_position_embeddings,
        "rope": _rope(config),
        "sliding_window": config.sliding_window,
        "tied_embeddings": config.tie_word_embeddings,
        "stored_dtype": config.dtype,
        "stop_token_ids": list(config.eos_token_ids),
    }
    if config.id2label:
        facts["labels"] = list(config.id2label)
    for dtype in DTYPES:
        facts[f"weights_in_{dtype}"] = config.num_params * BYTES_PER_ELEMENT[dtype]
    for kv_dtype in KV_DTYPES:
        facts[f"kv_bytes_per_token_in_{kv_dtype}"] = config.kv_bytes_per_token(kv_dtype)
    return facts


def _rope(config: Phi3Config) -> str:
    text = f"{config.rope.rope_type}, {config.rope.rotary_dim} of {config.head_dim} dims"
    if config.is_longrope:
        text += f", long factors beyond {config.original_max_position_embeddings} tokens"
    return text


def _readable(name: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return "yes" if value else "none" if value is None else "no"
    if isinstance(value, int) and name.startswith("weights"):
        return f"{value / (1 << 20):,.1f} MiB"
    return f"{value:,}" if isinstance(value, int) else str(value)
