"""Write phi3svc/v1 from the protos: `python protos/generate.py [OUT_DIR]`.

OUT_DIR is the folder that holds the package `phi3svc`; the repository's root unless given. The
generated code is committed, so that installing needs no compiler; tests/test_protos.py holds it
to what this script writes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent


def generate(out_dir: Path) -> list[Path]:
    """Compile every proto into `out_dir` and return the files written, sorted."""
    sources = sorted(PROTOS.glob("phi3svc/v1/*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTOS}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            f"--python_out={out_dir}",
            f"--pyi_out={out_dir}",
            f"--grpc_python_out={out_dir}",
            *map(str, sources),
        ]
    )
    if status != 0:
        raise SystemExit(status)
    package = out_dir / "phi3svc" / "v1"
    services = [source for source in sources if source.stem.endswith("_service")]
    for source in set(sources) - set(services):
        # protoc writes a service file for each proto; one without services has nothing in it.
        (package / f"{source.stem}_pb2_grpc.py").unlink()
    return sorted(path for path in package.iterdir() if path.suffix in {".py", ".pyi"})


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS.parent)
