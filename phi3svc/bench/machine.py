"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from phi3svc.errors import ConfigError

PACKAGES = ("phi3svc", "grpcio", "protobuf", "torch")


@dataclass(frozen=True)
class Machine:
    """Where the load comes from, and the server too unless it is a remote one.

    num_cpus: those this process may use. isa: instruction set of the kernels; None when they run
    elsewhere.
    """

    cpu: str
    num_cpus: int
    isa: str | None
    system: str

    @classmethod
    def here(cls, *, has_kernels: bool) -> Machine:
        """Raises ConfigError when PHI3SVC_CPU_ISA names what this CPU lacks."""
        system = f"{platform.system()} {platform.release()} {platform.machine()}"
        isa = _isa() if has_kernels else None
        return cls(_cpu_name(), len(os.sched_getaffinity(0)), isa, system)


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide speed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _isa() -> str:
    # Asked of a child: the front keeps the extension out of its own process.
    code = "from phi3svc import _core; print(_core.isa())"
    command = (sys.executable, "-P", "-c", code)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError((done.stderr.strip().splitlines() or ["the extension fails"])[-1])
    return done.stdout.strip()
