"""One engine in its own process: `python -m tests.bench.peers.run ENGINE FORMAT PATH`.

Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
from pathlib import Path

from tests.bench.peers import workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("format")
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--load-only", action="store_true", help="measure nothing")
    args = parser.parse_args()
    # What Python and the engine's package take to import is no part of the engine's start.
    module = importlib.import_module(f"tests.bench.peers.engines.{args.engine}")
    if args.load_only:
        module.load(args.path, args.format, args.threads)
        return
    figures = workload.measure(
        lambda: module.load(args.path, args.format, args.threads), args.quick
    )
    figures["peak_rss"] = _peak_bytes()
    figures["flags"] = module.FLAGS
    print("\n" + json.dumps(figures), flush=True)


def _peak_bytes() -> int:
    """Most memory that this process ever had, pages of mapped files included."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
