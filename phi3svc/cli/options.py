"""Flags that several commands share, and the configuration that they make."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from phi3svc.config.engine import KV_DTYPES
from phi3svc.config.server import DTYPES, ModelSpec, ServerConfig, load_server_config
from phi3svc.errors import ConfigError

SERVER_FLAGS = (
    *("dtype", "device", "threads", "pin_threads"),
    *("kv_memory", "kv_dtype", "packed_cache", "config"),
)
"""The flags of `add_model_options` that are given at most once, as argparse names them."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What to serve and on what: for `serve`, and for commands that start their own server."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]SOURCE",
        help="local folder, hub id, or demo, demo-sentiment, demo-entities; may repeat; "
        "the embedded models by default",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="weights; default: auto, as stored; int8 and int4 (on a CPU) and fp8 (on CUDA) "
        "quantize while loading",
    )
    group.add_argument("--device", metavar="cpu|cuda|cuda:N", help="default: cpu")
    group.add_argument("--threads", type=int, help="compute threads; default, and 0: one per core")
    group.add_argument(
        "--pin-threads",
        action=argparse.BooleanOptionalAction,
        help="tie compute threads to a core each; default: no",
    )
    group.add_argument(
        "--kv-memory",
        type=int,
        metavar="MIB",
        help="KV cache of all models; default, and 0: half of what is free, on CUDA nine tenths",
    )
    group.add_argument(
        "--kv-dtype",
        choices=KV_DTYPES,
        help="KV cache; default: auto, the model's dtype; int8 on a CPU, fp8 on CUDA",
    )
    group.add_argument(
        "--packed-cache",
        metavar="DIR|off",
        help="where weights are kept as they are served, for the next start; "
        "default: phi3svc/packed in $XDG_CACHE_HOME or ~/.cache",
    )
    group.add_argument("--config", type=Path, metavar="FILE.toml", help="every other setting")


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Where to send requests: a running server, or (default) a private one for this command."""
    add_model_options(parser)
    parser.add_argument(
        "--address",
        metavar="ADDR",
        help="host:port or unix:path of a running server; without it, one is started and stopped",
    )


def check_address(args: argparse.Namespace) -> None:
    """Raises ConfigError for flags that a server that runs already would not hear of."""
    if not args.address:
        return
    for name in ("model", *SERVER_FLAGS):
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            hint = "; --name chooses among its models" if name == "model" else ""
            raise ConfigError(f"{flag}: not with --address, where a server runs already{hint}")


def server_config(
    args: argparse.Namespace, listen: list[str] | None = None, default_model: str | None = None
) -> ServerConfig:
    """Flags over the TOML file over defaults. Raises ConfigError.

    default_model: what to load when neither flags nor file name a model; None means all embedded.
    """
    models = [ModelSpec.parse(text) for text in args.model] if args.model else None
    if models is None and args.config is None and default_model is not None:
        models = [ModelSpec.parse(default_model)]
    overrides = {"models": models, "dtype": args.dtype, "listen": listen, "device": args.device}
    engine = {
        "num_threads": args.threads,
        "pin_threads": args.pin_threads,
        "kv_memory_bytes": args.kv_memory << 20 if args.kv_memory is not None else None,
        "kv_dtype": args.kv_dtype,
        "packed_cache": args.packed_cache,
    }
    return load_server_config(args.config, overrides, engine)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen and when to stop; what is not given is the server's to choose."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--name", default="", help="which of the server's models to ask")
    group.add_argument("--temperature", type=float, help="0 takes the most likely token")
    group.add_argument("--top-k", type=int, help="sample from the k most likely tokens")
    group.add_argument("--top-p", type=float, help="sample from the smallest set of this mass")
    group.add_argument("--seed", type=int, help="repeats an answer exactly")
    group.add_argument("--min-p", type=float, help="drop what is less likely, relative to the best")
    group.add_argument("--typical-p", type=float, help="sample from the most typical of this mass")
    group.add_argument(
        "--repetition-penalty", type=float, help="above 1: repeat prompt and answer less"
    )
    group.add_argument("--presence-penalty", type=float, help="above 0: repeat the answer less")
    group.add_argument("--frequency-penalty", type=float, help="as often as a token came")
    group.add_argument(
        "--logit-bias",
        action="append",
        default=[],
        type=_token_bias,
        metavar="ID=BIAS",
        help="make a token more or less likely; may repeat",
    )
    group.add_argument("--max-new-tokens", type=int, metavar="N")
    group.add_argument("--min-new-tokens", type=int, metavar="N", help="no stop token before")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="may repeat")


def _token_bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition("=")
    try:
        if not 0 <= int(token_id) < 1 << 32:
            raise ValueError
        return int(token_id), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be ID=BIAS") from None


def check_uint(flag: str, value: int | None, end: int) -> None:
    """Raises ConfigError for what the wire cannot carry; the server judges the rest."""
    if value is not None and not 0 <= value < end:
        raise ConfigError(f"--{flag} {value}: must be 0 to {end - 1}")


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_sampling_options` as keyword arguments of `Client.generate`."""
    for name, high in (
        ("seed", 1 << 64),
        ("top_k", 1 << 32),
        ("max_new_tokens", 1 << 32),
        ("min_new_tokens", 1 << 32),
    ):
        check_uint(name.replace("_", "-"), getattr(args, name), high)
    return {
        "model": args.name,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "seed": args.seed,
        "min_p": args.min_p,
        "typical_p": args.typical_p,
        "repetition_penalty": args.repetition_penalty,
        "presence_penalty": args.presence_penalty,
        "frequency_penalty": args.frequency_penalty,
        "logit_bias": dict(args.logit_bias),
        "max_new_tokens": args.max_new_tokens,
        "min_new_tokens": args.min_new_tokens,
        "stop": args.stop,
    }
