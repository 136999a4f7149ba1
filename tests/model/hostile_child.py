"""Reads folders as a server does, in a process that may take little memory and time.

Arguments: folders. A line of JSON for each: its name, seconds, and the error's type and text.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from pathlib import Path

from phi3svc.config.checkpoint import fingerprint
from phi3svc.config.model import Phi3Config
from phi3svc.config.tensors import list_tensors
from phi3svc.text.chat import ChatTemplate
from phi3svc.text.tokenizer import Tokenizer

MAX_BYTES = 1536 << 20
MAX_SECONDS = 8


def read(path: Path) -> None:
    Phi3Config.from_dir(path)
    list_tensors(path)
    fingerprint(path)
    Tokenizer.from_dir(path).encode("a" * 60 + "b \n" * 50)
    ChatTemplate.from_dir(path).render([{"role": "user", "content": "x"}])


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    for name in sys.argv[1:]:
        print(json.dumps({"begun": name}), flush=True)
        signal.alarm(MAX_SECONDS)  # whose default is the end of the process
        start, error = time.monotonic(), None
        try:
            read(Path(name))
        except Exception as caught:
            error = caught
        signal.alarm(0)
        seconds = time.monotonic() - start
        print(json.dumps([name, seconds, type(error).__name__, str(error)]), flush=True)


if __name__ == "__main__":
    main()
