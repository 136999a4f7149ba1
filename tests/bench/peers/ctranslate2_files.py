"""CTranslate2's files: `python -m tests.bench.peers.ctranslate2_files CHECKPOINT OUT TYPE`.

Runs in the peers' environment.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

from ctranslate2.converters import TransformersConverter
from transformers.models.phi3.modeling_phi3 import Phi3Attention


def main() -> None:
    path, out, quantization = sys.argv[1:]
    # Its loader looks for LongRoPE's factors where transformers no longer keeps them.
    Phi3Attention.rotary_emb = SimpleNamespace(long_factor=None, short_factor=None)
    converter = TransformersConverter(path, low_cpu_mem_usage=True)
    converter.convert(out, quantization=quantization, force=True)


if __name__ == "__main__":
    main()
