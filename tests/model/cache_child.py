"""Loads a checkpoint through a cache in a process of its own, for `test_packed_cache.py`.

    python -m tests.model.cache_child CHECKPOINT CACHE DTYPE [slow|killed]

prints one JSON object: whether it packed the weights, what warnings there were, and a digest of
logits. slow: the packing takes half a second. killed: the process ends itself in the midst of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from phi3svc.model import loader
from phi3svc.model.packed_cache import PackedCache
from phi3svc.model.packed_writer import PackedFileWriter
from tests.model.decoding import all_logits, random_ids


def main(path: str, folder: str, dtype: str, manner: str = "") -> None:
    loader.MIN_CACHED_BYTES = 0
    num_packed, warnings = 0, []
    finish = PackedFileWriter.finish

    def finish_in_a_manner(writer: PackedFileWriter) -> None:
        nonlocal num_packed
        if manner == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if manner == "slow":
            time.sleep(0.5)
        num_packed += 1
        finish(writer)

    PackedFileWriter.finish = finish_in_a_manner  # type: ignore[method-assign]
    logging.getLogger("phi3svc").addFilter(lambda r: not warnings.append(r.getMessage()))
    network = loader.load_network(Path(path), dtype, cache=PackedCache(Path(folder), 1 << 30))
    logits = all_logits(network, random_ids(20)).numpy().tobytes()
    digest = hashlib.sha256(logits).hexdigest()
    print(json.dumps({"num_packed": num_packed, "digest": digest, "warnings": warnings}))


if __name__ == "__main__":
    main(*sys.argv[1:])
