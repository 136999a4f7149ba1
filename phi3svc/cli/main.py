"""The `phi3svc` command: flags → configuration → run.

Exit codes: 0 done, 2 a configuration error (one line), 1 a failure, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from phi3svc import __version__
from phi3svc.cli import bench, chat, classify, demo, generate, info, quantize, serve
from phi3svc.errors import ConfigError, Phi3Error
from phi3svc.log import setup_logging

COMMANDS = {
    "serve": serve,
    "generate": generate,
    "chat": chat,
    "classify": classify,
    "bench": bench,
    "quantize": quantize,
    "info": info,
    "demo": demo,
}


def build_parser() -> argparse.ArgumentParser:
    """One sub-parser per command; each command's module describes its own flags."""
    parser = argparse.ArgumentParser(
        prog="phi3svc", description="Serve Microsoft's Phi-3 language models over gRPC."
    )
    parser.add_argument("--version", action="version", version=f"phi3svc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        sub = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; expected failures print one line."""
    args = build_parser().parse_args(argv)
    try:
        setup_logging("front")
        code: int = args.run(args)
        return code
    except ConfigError as error:
        print(f"phi3svc: error: {error}", file=sys.stderr)
        return 2
    except Phi3Error as error:
        print(f"phi3svc: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output left (`phi3svc generate | head`): nothing is wrong.
        sys.stderr.close()
        return 0
    except OSError as error:
        # A full disk, a closed terminal.
        print(f"phi3svc: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
