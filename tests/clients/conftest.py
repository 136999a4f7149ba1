"""Installs what the clients in other languages need, once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = Path(__file__).parent / "node"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """tests/clients/node/node_modules, from the versions pinned in package.json."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    modules = NODE / "node_modules"
    stamp = modules / ".stamp"
    wanted = (NODE / "package.json").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run(["npm", "install", "--silent"], cwd=NODE, check=True, timeout=240)
        stamp.write_text(wanted)
    return modules
