"""What a person sees while a model comes from the hub and is loaded."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import threading
from pathlib import Path

from phi3svc.config.checkpoint import EMBEDDED_DIR
from tests.config.hub_server import HubServer

COMMIT = "c" * 40


def run_on_terminal(arguments: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Exit code, and what a terminal of 100 columns shows."""
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    shown = bytearray()

    def read() -> None:
        try:
            while part := os.read(main, 1 << 16):
                shown.extend(part)
        except OSError:  # how Linux tells that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "phi3svc", *arguments]
    done = subprocess.run(
        command, env=os.environ | env, stdout=terminal, stderr=terminal, timeout=60, check=False
    )
    os.close(terminal)
    reader.join()
    os.close(main)
    return done.returncode, shown.decode()


def test_a_download_and_then_the_loading_are_shown(tmp_path: Path) -> None:
    files = {f.name: f.read_bytes() for f in (EMBEDDED_DIR / "demo").iterdir() if f.is_file()}
    hub = HubServer({"main": COMMIT}, {COMMIT: files})
    with hub.serving():
        code, shown = run_on_terminal(
            ["generate", "Hello!", "--chat", "--max-new-tokens", "8", "--model", "org/name@main"],
            {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)},
        )
    assert code == 0, shown
    download, _, loading = shown.partition("loading name")
    assert "100%" in download
    assert "1.8/1.8 MiB" in loading
