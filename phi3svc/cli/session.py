"""A client for one command: of the server at `--address`, or of a private one started for it."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from phi3svc.cli.options import check_address, server_config
from phi3svc.cli.progress import LoadProgress
from phi3svc.config.server import ServerConfig
from phi3svc.engine.process import EngineProcess
from phi3svc.service.client import Client
from phi3svc.service.server import Server


@asynccontextmanager
async def connected(args: argparse.Namespace, default_model: str) -> AsyncIterator[Client]:
    """Yields the client. default_model: what a private server loads when no flag names a model."""
    check_address(args)
    if args.address:
        async with Client.connect(args.address) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="phi3svc-") as folder:
        address = f"unix:{Path(folder) / 'server.sock'}"
        config = server_config(args, [address], default_model)
        async with running_server(config), Client.connect(address) as client:
            yield client


@asynccontextmanager
async def running_server(config: ServerConfig) -> AsyncIterator[tuple[str, ...]]:
    """Runs a server inside this process for as long as the block lasts; yields its addresses."""
    server = Server(config, EngineProcess(config.models_to_load(), config.engine))
    try:
        addresses = await server.bind()
        with LoadProgress() as progress:
            await server.start(progress)
        yield addresses
    finally:
        # Also on Ctrl-C: the engine's process must not outlive the command.
        await asyncio.shield(server.stop(grace_s=0.0))
