"""Runs the installed `phi3svc` command as a user would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = (sys.executable, "-m", "phi3svc")
ENV = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}


def phi3svc(
    *args: str, stdin: str = "", timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """The finished command with its texts."""
    return subprocess.run(
        [*COMMAND, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=ENV,
        check=False,
    )


@contextmanager
def serving(*args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`phi3svc serve` with the given flags, ready; yields the process and its first address."""
    process = subprocess.Popen(
        [*COMMAND, "serve", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"listening on (\S+)\n", line)
        assert found, (line, process.stderr.read() if process.stderr else "")
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
