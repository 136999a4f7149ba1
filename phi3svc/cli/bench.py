"""Measure rates and latencies of the engine, or of the whole service, under load."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from phi3svc.bench.load import run_load
from phi3svc.bench.machine import Machine
from phi3svc.bench.plot import plot
from phi3svc.bench.progress import RunProgress
from phi3svc.bench.report import console_for_report, print_report
from phi3svc.bench.results import Results
from phi3svc.bench.run import Run
from phi3svc.bench.server import private_server
from phi3svc.bench.target import EngineTarget, GrpcTarget, Target
from phi3svc.bench.workload import Workload
from phi3svc.cli.options import SERVER_FLAGS, add_client_options, check_address, server_config
from phi3svc.cli.progress import LoadProgress
from phi3svc.engine.process import EngineProcess
from phi3svc.errors import ConfigError
from phi3svc.service.client import Client

DEFAULT_MODEL = "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mode",
        choices=("engine", "grpc"),
        default="grpc",
        help="engine: no gRPC, no text; grpc (default): the whole service",
    )
    parser.add_argument("--name", default="", help="which of the models to ask")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw it")
    group = parser.add_argument_group("load")
    group.add_argument(
        "--rate",
        type=float,
        default=Workload.rate,
        metavar="R",
        help="open loop: Poisson arrivals, R per second; 0 (default): all at once",
    )
    group.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="closed loop: always N running, in place of --rate",
    )
    for flag, default, meaning in (
        ("--requests", Workload.num_requests, "how many"),
        ("--prompt-tokens", Workload.prompt_len, "random tokens per prompt"),
        ("--max-new-tokens", Workload.max_new_tokens, "tokens to generate per request"),
        ("--warmup", Workload.num_warmup, "requests before the run that count for nothing"),
        ("--seed", Workload.seed, "of prompts and arrivals"),
        ("--coalesce-ms", Workload.coalesce_ms, "how long tokens may wait for company"),
    ):
        group.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{meaning}; default {default}"
        )
    group.add_argument("--ignore-eos", action="store_true", help="generate all tokens asked for")
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    workload = _workload(args)
    try:
        finished = asyncio.run(_bench(args, workload))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print_report(finished, console_for_report())
    if args.json:
        _write(args.json, json.dumps(finished.to_json(), indent=1) + "\n")
    if args.plot:
        _write(args.plot, plot(finished))
    return 0 if finished.results.num_completed else 1


async def _bench(args: argparse.Namespace, workload: Workload) -> Run:
    # The server is a process of its own: stopped from outside, this one must still end it.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    machine = await asyncio.to_thread(Machine.here, has_kernels=args.address is None)
    async with _target(args, workload) as target:
        workload.check_fits(target.model.name, target.model.max_context_len)
        started_at = datetime.now(UTC)
        with RunProgress(workload.num_requests) as progress:
            records = await run_load(target, workload, progress)
        return Run(
            mode=args.mode,
            address=args.address,
            model=target.model,
            machine=machine,
            workload=workload,
            started_at=started_at,
            records=records,
            results=Results.of(records),
        )


@asynccontextmanager
async def _target(args: argparse.Namespace, workload: Workload) -> AsyncIterator[Target]:
    if args.mode == "engine":
        config = server_config(args, default_model=DEFAULT_MODEL)
        engine = EngineProcess(config.models_to_load(), config.engine)
        try:
            with LoadProgress() as progress:
                await engine.start(progress)
            yield EngineTarget(engine, args.name, workload)
        finally:
            await asyncio.shield(engine.close(grace_s=1.0))
    elif args.address:
        async with Client.connect(args.address) as client:
            yield await GrpcTarget.connect(client, args.name, workload)
    else:
        async with private_server(_serve_flags(args)) as address, Client.connect(address) as client:
            yield await GrpcTarget.connect(client, args.name, workload)


def _serve_flags(args: argparse.Namespace) -> list[str]:
    """The model flags as they were given, for `serve`."""
    models = args.model or ([] if args.config else [DEFAULT_MODEL])
    flags = [f"--model={model}" for model in models]
    for name in SERVER_FLAGS:
        value = getattr(args, name)
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            flags.append(f"--{flag}={value}")
    return flags


def _workload(args: argparse.Namespace) -> Workload:
    if args.concurrency is not None and args.concurrency < 1:
        raise ConfigError(f"--concurrency {args.concurrency}: must be at least 1")
    return Workload(
        num_requests=args.requests,
        prompt_len=args.prompt_tokens,
        max_new_tokens=args.max_new_tokens,
        ignore_eos=args.ignore_eos,
        rate=args.rate,
        concurrency=args.concurrency or 0,
        num_warmup=args.warmup,
        seed=args.seed,
        coalesce_ms=args.coalesce_ms,
    )


def _check(args: argparse.Namespace) -> None:
    """What can be known to be wrong before the run must not be found out after it."""
    check_address(args)
    if args.mode == "engine" and args.address:
        raise ConfigError("--address: only for --mode grpc")
    if args.plot and args.plot.suffix != ".svg":
        raise ConfigError(f"--plot {args.plot}: must end in .svg")
    for flag, path in (("--json", args.json), ("--plot", args.plot)):
        if path and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"{flag} {path}: cannot be written")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
