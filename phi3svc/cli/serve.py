"""Serve models over gRPC until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio

from phi3svc.cli.options import add_model_options, server_config
from phi3svc.cli.progress import LoadProgress
from phi3svc.config.server import DEFAULT_LISTEN, ServerConfig
from phi3svc.engine.process import EngineProcess
from phi3svc.service.server import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument(
        "--listen",
        action="append",
        metavar="ADDR",
        help=f"host:port (port 0 picks one) or unix:path; may repeat; default {DEFAULT_LISTEN[0]}",
    )


def run(args: argparse.Namespace) -> int:
    asyncio.run(_serve(server_config(args, args.listen)))
    return 0


async def _serve(config: ServerConfig) -> None:
    with LoadProgress() as progress:

        def on_ready(addresses: tuple[str, ...]) -> None:
            progress.close()
            for address in addresses:
                print(f"listening on {address}", flush=True)

        engine = EngineProcess(config.models_to_load(), config.engine)
        await serve(config, engine, on_ready, progress)
