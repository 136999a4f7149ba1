"""phi3svc beside llama.cpp, OpenVINO GenAI, ONNX Runtime GenAI, CTranslate2 and transformers.

`make bench-peers`, or in the project's environment

    python -m tests.bench.peers [--layers 32] [--only llama_cpp:q4_0] [--quick] [--resume]

Writes a checkpoint of Phi-3-mini's shape with random weights, converts it for each engine (once,
into --work), then runs every engine in a process of its own, in alternating rounds, and writes
peers.md, peers.svg and peers.json into --out. An engine that fails is a line of the table that
says so. --quick and --only write into --work unless --out is given.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

from phi3svc.bench.machine import Machine
from tests.bench.peers import summary
from tests.bench.peers.catalog import Places, select
from tests.bench.peers.picture import to_svg
from tests.bench.peers.prepare import build_probe, prepare
from tests.bench.peers.report import Setting, to_markdown
from tests.bench.peers.rounds import Rounds

RESULTS = Path(__file__).parent.parent / "results"
PACKAGES = (
    *("llama_cpp_python", "openvino", "openvino-genai", "optimum-intel", "nncf"),
    *("onnxruntime", "onnxruntime-genai", "ctranslate2", "torch", "gguf"),
)


def main() -> None:
    args = _arguments()
    # As an exception, so that the engine that is running is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    entries = select(args.only)
    places = Places(args.work, args.peers, args.layers)
    failures = prepare(entries, places, args.threads)
    runnable = [entry for entry in entries if entry.key not in failures]
    rounds = Rounds(args.work / f"records-{args.layers}.json", is_resumed=args.resume)
    rounds.run(
        runnable,
        places,
        build_probe(places),
        num_rounds=args.rounds,
        num_threads=args.threads,
        is_quick=args.quick,
    )
    records = rounds.records + [
        {"round": 0, "key": key, "error": reason} for key, reason in failures.items()
    ]
    setting = Setting(
        date=datetime.date.today().isoformat(),
        cpu=Machine.here(has_kernels=False).cpu,
        system=f"{platform.system()} {platform.release()}",
        num_threads=args.threads,
        num_layers=args.layers,
        num_rounds=args.rounds,
        command=" ".join(["python -m tests.bench.peers", *sys.argv[1:]]),
        versions=_versions(places),
    )
    limits = summary.limits(records)
    lines = summary.lines(entries, records)
    text = to_markdown(lines, setting, limits)
    print("\n" + text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.name}.md").write_text(text.replace("peers.svg", f"{args.name}.svg"))
    (args.out / f"{args.name}.svg").write_text(to_svg(lines, setting))
    raw = {"setting": vars(setting), "limits": limits, "records": records}
    (args.out / f"{args.name}.json").write_text(json.dumps(raw, indent=1) + "\n")
    print(f"written: {args.out / args.name}.md, .svg, .json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    num_cpus = len(os.sched_getaffinity(0))
    parser.add_argument("--layers", type=int, default=8, help="of the checkpoint; the real one: 32")
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument("--threads", type=int, default=num_cpus)
    parser.add_argument("--only", nargs="+", default=[], metavar="ENGINE[:FORMAT]")
    parser.add_argument("--quick", action="store_true", help="one round, few tokens")
    parser.add_argument("--resume", action="store_true", help="go on with the run that was cut off")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="their environment")
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument("--out", type=Path, help="folder of the results")
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 1 if args.quick else 3
    if args.out is None:
        args.out = args.work if args.quick or args.only else RESULTS
    args.name = "peers" if args.layers == 8 else f"peers-{args.layers}-layers"
    return args


def _versions(places: Places) -> dict[str, str]:
    """Of the engines, as their environment has them."""
    code = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    found: dict[str, str] = {"python": platform.python_version()}
    for packages, is_new in ((PACKAGES, False), (("transformers",), True)):
        done = subprocess.run(
            [places.peers_python, "-c", code, *packages],
            env=places.environment(is_new_transformers=is_new),
            capture_output=True,
            text=True,
            check=True,
        )
        found |= json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
