"""The protos follow buf's rules, and break no client of the ones committed before."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROTOS = Path(__file__).resolve().parents[2] / "protos"


def buf(node_modules: Path, *args: str) -> str:
    """What buf has to say; nothing when all is well."""
    command = [str(node_modules / ".bin" / "buf"), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr


def test_protos_are_clean(node_modules: Path) -> None:
    assert buf(node_modules, "lint", str(PROTOS)) == ""
    assert buf(node_modules, "format", "--diff", "--exit-code", str(PROTOS)) == ""


def test_protos_break_no_client(node_modules: Path, tmp_path: Path) -> None:
    released = str(PROTOS / "released.binpb")
    assert buf(node_modules, "breaking", str(PROTOS), "--against", released) == ""

    # That check does notice a field that changes its number.
    for source in PROTOS.glob("**/*.proto"):
        copy = tmp_path / source.relative_to(PROTOS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text().replace("uint64 seed = 4", "uint64 seed = 14"))
    (tmp_path / "buf.yaml").write_text((PROTOS / "buf.yaml").read_text())
    assert 'name "seed"' in buf(node_modules, "breaking", str(tmp_path), "--against", released)
