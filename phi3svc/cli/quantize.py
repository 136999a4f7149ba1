"""Round a checkpoint's weights to 8 or 4 bits, into a folder that is served like any other."""

from __future__ import annotations

import argparse
from pathlib import Path

from phi3svc.cli.progress import LoadProgress
from phi3svc.cli.quantization_report import QuantizationReport
from phi3svc.config.checkpoint import resolve_source
from phi3svc.config.quantization import GROUP_SIZES, INTEGER_DTYPES, Quantization
from phi3svc.config.tensors import list_tensors
from phi3svc.engine.async_engine import LoadStatus
from phi3svc.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="local folder, hub id, or an embedded model's name")
    parser.add_argument("out", type=Path, help="the folder to write, new or empty")
    parser.add_argument(
        "--dtype", choices=INTEGER_DTYPES, default="int4", help="of linear weights; default: int4"
    )
    parser.add_argument(
        "--group-size",
        type=int,
        choices=GROUP_SIZES,
        help="weights that share an int4 scale; default: 32",
    )
    parser.add_argument(
        "--symmetric",
        action="store_true",
        help="int4 groups without a minimum of their own: a little smaller, and less exact",
    )
    parser.add_argument(
        "--head-bits",
        type=int,
        choices=(4, 8),
        help="of the language-model head of an int4 model; default: 8",
    )


def run(args: argparse.Namespace) -> int:
    # Imported here: it brings torch, which a server's front process does without.
    from phi3svc.model.quantized_checkpoint import check_new, write_quantized

    quantization = _quantization(args)
    check_new(args.out)  # before gigabytes are downloaded for nothing
    checkpoint = resolve_source(args.source)
    num_bytes_before = sum(t.num_bytes for t in list_tensors(checkpoint.path).values())
    report = QuantizationReport(quantization.format)
    with LoadProgress("quantizing") as bar:

        def progress(done: int, total: int) -> None:
            bar(LoadStatus(checkpoint.name, done, total))

        write_quantized(checkpoint.path, args.out, quantization, progress, report.add)
    num_bytes_after = sum(t.num_bytes for t in list_tensors(args.out).values())
    report.show(args.out, num_bytes_before, num_bytes_after)
    return 0


def _quantization(args: argparse.Namespace) -> Quantization:
    if args.dtype == "int8":
        for flag in ("group-size", "symmetric", "head-bits"):
            if getattr(args, flag.replace("-", "_")):
                raise ConfigError(f"--{flag}: not with --dtype int8, which has a scale per row")
        return Quantization(8)
    return Quantization(4, args.group_size or GROUP_SIZES[0], args.symmetric, args.head_bits or 8)
