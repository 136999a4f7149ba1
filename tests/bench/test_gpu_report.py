"""The report of `tests/bench/gpu.sh`, of findings as its stages leave them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.bench.gpu.report import to_markdown
from tests.bench.gpu.shapes import SHAPES

MACHINE = {"gpu": "A GPU", "date": "2026-01-01", "versions": "driver 1"}
OPS = {
    "shape": "mini",
    "limits": {"read_bandwidth": 3e12, "copy_bandwidth": 2.5e12, "matrix_rate": 7e14},
    "rows": [
        {"op": "mlp", "setting": "1 token", "seconds": 5e-5, "limit": "bandwidth", "fraction": 0.8}
    ],
}


def run_of(engine: str, rows: list[dict[str, object]]) -> dict[str, object]:
    setting = {"shape": "mini", "format": "bfloat16", "prompt_len": 512, "num_new": 64}
    return {"engine": engine, **setting, "rows": rows}


def test_engines_stand_side_by_side() -> None:
    ours = run_of("phi3svc", [{"batch": 1, "prefill": 40000.0, "decode": 300.0}])
    theirs = run_of(
        "transformers",
        [
            {"batch": 1, "prefill": 20000.0, "decode": 100.4},
            {"batch": 8, "error": "out of memory"},
        ],
    )
    lines = to_markdown(MACHINE, [OPS], [ours, theirs]).splitlines()
    assert "| mlp | 1 token | 50.0 | 80.0% | bandwidth |" in lines
    assert "| engine | prefill, 1 | prefill, 8 | decode, 1 | decode, 8 |" in lines
    assert "| phi3svc, bfloat16 | 40,000 | - | 300 | - |" in lines
    assert "| transformers, bfloat16 | 20,000 | out of memory | 100 | out of memory |" in lines
    # 300 steps that read 7.4 GB of 3 TB; 40,000 times 7.2 GFLOP of 700 T.
    shares = next(line for line in lines if line.startswith("- phi3svc, bfloat16:"))
    assert " at 74.4% of the bandwidth" in shares
    assert " at 41.4% of the rate" in shares


def test_weights_are_counted_as_published() -> None:
    """Phi-3-mini has 3.8 billion parameters, an embedding table that no step reads among them."""
    mini, medium = SHAPES["mini"], SHAPES["medium"]
    assert round((mini.step_weights + mini.vocab_size * mini.hidden_size) / 1e9, 2) == 3.82
    assert round((medium.step_weights + medium.vocab_size * medium.hidden_size) / 1e9, 1) == 14.0


def test_an_unknown_stage_is_refused_before_anything_runs(tmp_path: Path) -> None:
    script = Path(__file__).parent / "gpu.sh"
    done = subprocess.run(
        [script, "report", "everything"],
        env={"PATH": "/usr/bin:/bin", "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown stage everything; stages: build ops model" in done.stderr
    assert not done.stdout
