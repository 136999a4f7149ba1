"""Say what a checkpoint is and what it needs, without loading it."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from phi3svc.cli.footprint import DTYPES, PROCESS_BYTES, Footprint, footprints, weights_bytes
from phi3svc.config.checkpoint import fingerprint, resolve_source, tokenizer_file
from phi3svc.config.model import KVDType, Phi3Config, Phi3SmallSettings
from phi3svc.config.sizes import size_text
from phi3svc.config.tensors import TensorInfo, list_tensors
from phi3svc.engine.memory import available_bytes
from phi3svc.text.stop_tokens import stop_token_ids
from phi3svc.text.tokenizer import Tokenizer

_DEVICE_FILES = Path("/dev")
KV_DTYPES: tuple[KVDType, ...] = (*DTYPES, "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="local folder, hub id, or an embedded model's name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    path = resolve_source(args.source).path
    config = Phi3Config.from_dir(path)
    tensors = list_tensors(path)
    free_bytes = available_bytes()
    stored_bytes = sum(tensor.num_bytes for tensor in tensors.values())
    if config.quantization is None:
        num_params = count_params(tensors)
        sizes = weights_bytes(config, num_params)
    else:  # its tensors are packed, and served as they are
        num_params = config.num_params
        sizes = {config.quantization.dtype: stored_bytes}
    ways = list(footprints(config, sizes, free_bytes))
    facts = describe(config, num_params, sizes)
    if tokenizer_file(path).exists():
        facts["stop_token_ids"] = list(stop_token_ids(config, Tokenizer.from_dir(path)))
    facts |= {
        "stored_bytes": stored_bytes,
        "files": len({tensor.file for tensor in tensors.values()}),
        "folder": str(path),
        "fingerprint": fingerprint(path),
        "free_memory_bytes": free_bytes,
        "devices": ["cpu", *_cuda_devices()],
    }
    if args.json:
        print(json.dumps(facts | {"longest_context": [_record(way) for way in ways]}))
        return 0
    _show(facts, ways, is_quantized=config.quantization is not None)
    return 0


def _cuda_devices() -> list[str]:
    if not any(any(_DEVICE_FILES.glob(name)) for name in ("nvidia[0-9]*", "dxg")):  # dxg: WSL's
        return []
    # Here and not above: torch takes seconds.
    from phi3svc.model.device import describe_devices

    return describe_devices()


def count_params(tensors: Mapping[str, TensorInfo]) -> int:
    """Elements of all weights in the files; tied ones, which are stored once, count once.

    Early checkpoints store the inverse frequencies of RoPE, which are no weights.
    """
    return sum(
        math.prod(tensor.shape)
        for name, tensor in tensors.items()
        if not name.endswith("rotary_emb.inv_freq")
    )


def describe(config: Phi3Config, num_params: int, sizes: Mapping[str, int]) -> dict[str, object]:
    """The facts by name; sizes in bytes. sizes: of the weights, by the dtype they are served in."""
    facts: dict[str, object] = {
        "architecture": config.architecture,
        "task": config.task,
        "parameters": num_params,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": f"{config.num_attention_heads} query, {config.num_key_value_heads} key/value, "
        f"head dim {config.head_dim}",
        "mlp_width": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "context_tokens": config.context_len,
        "rope": _rope(config),
        "sliding_window": config.sliding_window,
        "tied_embeddings": config.tie_word_embeddings,
        "stored_dtype": config.quantization.name if config.quantization else config.dtype,
        "stop_token_ids": list(config.eos_token_ids),
    }
    if config.small is not None:
        facts["block_sparse"] = _block_sparse(config.small)
    if config.labels:
        facts["labels"] = list(config.labels)
    for dtype, num_bytes in sizes.items():
        facts[f"weights_in_{dtype}"] = num_bytes
    for kv_dtype in KV_DTYPES:
        facts[f"kv_bytes_per_token_in_{kv_dtype}"] = config.kv_bytes_per_token(kv_dtype)
    return facts


def _rope(config: Phi3Config) -> str:
    rope = config.rope
    text = f"{rope.rope_type}, {rope.rotary_dim} of {config.head_dim} dims, theta {rope.theta:g}"
    if rope.rope_type == "longrope":
        text += f", long factors beyond {rope.original_max_position_embeddings} tokens"
    elif rope.stretched_len:
        text += f", {rope.original_max_position_embeddings} tokens stretched by {rope.factor:g}"
    return text


def _block_sparse(small: Phi3SmallSettings) -> str:
    text = (
        f"blocks of {small.block_size} tokens, the last {small.num_local_blocks} and one of "
        f"{small.vertical_stride} before them"
    )
    return text + (f", one layer of {small.dense_every} dense" if small.dense_every else "")


def _record(way: Footprint) -> dict[str, object]:
    return {
        "dtype": way.dtype,
        "kv_dtype": way.kv_dtype,
        "context_tokens": way.context_tokens,
        "limited_by": way.limited_by,
        "kv_memory_bytes": way.kv_memory_bytes,
    }


def _show(facts: Mapping[str, object], ways: Sequence[Footprint], is_quantized: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        label = name.replace("_", " ").removesuffix(" bytes")
        console.print(f"{label:{width}}{_readable(name, value)}", markup=False)
    console.print()
    console.print(_table(ways), soft_wrap=False)
    console.print(
        f"That fits into the CPU's memory that is free now, with {size_text(PROCESS_BYTES)} left "
        "for the rest. --kv-memory is in MiB; without it, serve takes half of what is free there."
    )
    if not is_quantized:
        console.print("In int8 and int4, weights that lose too much keep more bits, and take more.")


def _table(ways: Iterable[Footprint]) -> Table:
    table = Table(
        title="longest context on the CPU", title_justify="left", title_style="bold", box=None
    )
    numbers = ("weights", "tokens", "--kv-memory")
    for name in ("--dtype", "weights", "--kv-dtype", "tokens", "limited by", "--kv-memory"):
        table.add_column(name, justify="right" if name in numbers else "left")
    for way in ways:
        table.add_row(
            way.dtype,
            size_text(way.weights_bytes),
            "int8" if way.kv_dtype == "int8" else "auto",
            f"{way.context_tokens:,}" if way.context_tokens else "does not fit",
            way.limited_by,
            str(-(-way.kv_memory_bytes >> 20)) if way.context_tokens else "",
        )
    return table


def _readable(name: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return "yes" if value else "none" if value is None else "no"
    if isinstance(value, int) and (name.startswith("weights") or name.endswith("_bytes")):
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
