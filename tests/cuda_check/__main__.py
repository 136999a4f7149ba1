"""Looks at a CUDA build of the extension without a GPU: `python -m tests.cuda_check _core.so`.

Prints what every kernel needs, and fails where the extension would not load on a machine without a
driver, or a kernel lacks the tensor cores' instructions or spills (rules.py).
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.cuda_check.kernels import kernels_of
from tests.cuda_check.rules import RULES
from tests.cuda_check.table import table

# What the driver and the toolkit bring: a machine without a GPU has none of it.
FOREIGN = ("libcuda.so", "libcudart", "libnvidia", "libnvrtc", "libcublas")


def load_failures(extension: Path) -> list[str]:
    """Why the extension cannot be had everywhere."""
    dynamic = subprocess.run(
        ["readelf", "-d", str(extension)], capture_output=True, text=True, check=True
    ).stdout
    needed = [line for line in dynamic.splitlines() if "(NEEDED)" in line]
    failures = [f"linked against {name}" for name in FOREIGN if any(name in n for n in needed)]
    script = (
        "import importlib.util as u, sys;"
        "spec = u.spec_from_file_location('phi3svc._core', sys.argv[1]);"
        "core = u.module_from_spec(spec); spec.loader.exec_module(core);"
        "print(core.build_info()['cuda'])"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, str(extension)], capture_output=True, text=True
    )
    if process.returncode:
        failures.append(f"cannot be imported: {process.stderr.strip().splitlines()[-1]}")
    else:
        print(f"{extension}: imported, built for {process.stdout.strip()}")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="cuda-check", description=__doc__)
    parser.add_argument("extension", type=Path)
    extension = parser.parse_args().extension
    kernels = kernels_of(extension)
    print(*table(kernels), sep="\n")
    failures = load_failures(extension)
    failures += [failure for rule in RULES for failure in rule.violations(kernels)]
    for failure in dict.fromkeys(failures):
        print(f"cuda-check: {failure}", file=sys.stderr)
    if failures:
        sys.exit(1)
    print(f"cuda-check: {len(kernels)} kernels, all as they must be")


if __name__ == "__main__":
    main()
