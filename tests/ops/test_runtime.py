"""What the extension says about itself, and the choice of an ISA."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from phi3svc import ops

SHOW_ISA = "from phi3svc import _core; print(_core.isa())"  # without torch: quick


def run_python(code: str, forced_isa: str | None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PHI3SVC_CPU_ISA"}
    if forced_isa is not None:
        env["PHI3SVC_CPU_ISA"] = forced_isa
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )


def test_the_best_isa_is_the_default() -> None:
    done = run_python(SHOW_ISA, None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ops.available_isas()[-1]


def test_the_environment_forces_an_isa() -> None:
    done = run_python(SHOW_ISA, "portable")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "portable"


def test_an_isa_that_is_not_there_is_an_error_naming_those_that_are() -> None:
    done = run_python(SHOW_ISA, "avx1024")
    assert done.returncode != 0
    assert "PHI3SVC_CPU_ISA" in done.stderr
    assert "avx1024" in done.stderr
    assert "portable" in done.stderr


@pytest.mark.parametrize("name", ops.available_isas())
def test_set_isa_chooses(name: str) -> None:
    before = ops.isa()
    try:
        ops.set_isa(name)
        assert ops.isa() == name
    finally:
        ops.set_isa(before)


def test_portable_is_always_there_and_worst() -> None:
    assert ops.available_isas()[0] == "portable"


def test_build_info_names_compiler_version_and_isas() -> None:
    info = ops.build_info()
    assert {"compiler", "build_type", "cuda", "isas", "version"} <= info.keys()
    assert all(isinstance(value, str) and value for value in info.values())
    for name in ops.available_isas():
        assert name in info["isas"]


def test_a_kernel_policy_that_is_not_there_is_an_error_naming_those_that_are() -> None:
    with pytest.raises(ops.Error, match="kernel policy is 'fast', expected deterministic or free"):
        ops.set_kernel_policy("fast")
