"""Which engines are compared, in which formats, and how their files are made."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FORMAT_CLASSES = ("bfloat16", "int8", "int4")


@dataclass(frozen=True)
class Places:
    """work: where files are made. peers: the peers' environment. num_layers: of the checkpoint."""

    work: Path
    peers: Path
    num_layers: int

    @property
    def checkpoint(self) -> Path:
        return self.work / f"checkpoint-{self.num_layers}"

    @property
    def peers_python(self) -> str:
        return str(self.peers / "bin" / "python")

    def environment(self, *, is_new_transformers: bool) -> dict[str, str]:
        """For a child: offline, and with the newer of the two transformers where that is wanted."""
        found = dict(os.environ) | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OPENVINO_TELEMETRY": "0",
        }
        # optimum-intel, which exports for OpenVINO, holds on to an older one than the others need.
        if is_new_transformers:
            found["PYTHONPATH"] = str((self.peers / "transformers-5").resolve())
        return found


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    module: in `engines`. format: as the engine calls it. kind: one of FORMAT_CLASSES, what it is
    compared with. bits: per weight of the layers as stored, scales included; head_bits: of the
    head, where it has others. kv_bytes: per element of the KV cache. converter: arguments of
    Python, with {checkpoint} and {out}; () if it reads the checkpoint itself.
    """

    engine: str
    module: str
    format: str
    kind: str
    bits: float
    kv_bytes: float
    converter: tuple[str, ...] = ()
    is_new_transformers: bool = False
    head_bits: float | None = None

    @property
    def key(self) -> str:
        return f"{self.module}:{self.format}"

    @property
    def is_ours(self) -> bool:
        return self.module == "phi3svc"

    def path(self, places: Places) -> Path:
        if not self.converter:
            return places.checkpoint
        return places.work / f"{self.module}-{self.format}-{places.num_layers}"

    def python(self, places: Places) -> str:
        return sys.executable if self.is_ours else places.peers_python

    def environment(self, places: Places) -> Mapping[str, str]:
        return places.environment(is_new_transformers=self.is_new_transformers)


def _ours(name: str, kind: str, bits: float, head_bits: float | None = None) -> Entry:
    return Entry("phi3svc", "phi3svc", name, kind, bits, 2, head_bits=head_bits)


def _llama_cpp(name: str, kind: str, bits: float) -> Entry:
    converter = ("-m", "tests.bench.peers.gguf_files", "{checkpoint}", "{out}", name)
    return Entry("llama.cpp", "llama_cpp", name, kind, bits, 2, converter)


def _openvino(name: str, kind: str, bits: float, options: Sequence[str]) -> Entry:
    converter = (
        *("-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", "{checkpoint}"),
        *("--task", "text-generation-with-past", *options, "{out}"),
    )
    return Entry("OpenVINO GenAI", "openvino_genai", name, kind, bits, 1, converter)


def _onnxruntime(name: str, kind: str, bits: float) -> Entry:
    converter = (
        *("-m", "onnxruntime_genai.models.builder", "-i", "{checkpoint}", "-o", "{out}"),
        *("-p", name, "-e", "cpu", "-c", "{out}/cache", "--extra_options", "prune_lm_head=true"),
    )
    return Entry("ONNX Runtime GenAI", "onnxruntime_genai", name, kind, bits, 4, converter, True)


ENTRIES = (
    _ours("bfloat16", "bfloat16", 16),
    _ours("int8", "int8", 8),
    _ours("int4", "int4", 4.25, head_bits=8),
    _ours("int4-g32-min-head4", "int4", 4.25),
    _llama_cpp("bf16", "bfloat16", 16),
    _llama_cpp("q8_0", "int8", 8.5),
    _llama_cpp("q4_0", "int4", 4.5),
    _openvino("fp16", "bfloat16", 16, ("--weight-format", "fp16")),
    _openvino("int8", "int8", 8, ("--weight-format", "int8")),
    _openvino(
        "int4", "int4", 4.125,
        ("--weight-format", "int4", "--sym", "--group-size", "128", "--all-layers"),
    ),
    # float32 scales for every 32 weights.
    _onnxruntime("int8", "int8", 9),
    _onnxruntime("int4", "int4", 5),
    Entry(
        "CTranslate2", "ctranslate2", "int8", "int8", 8, 4,
        ("-m", "tests.bench.peers.ctranslate2_files", "{checkpoint}", "{out}", "int8"),
    ),
    Entry("transformers", "transformers", "bf16", "bfloat16", 16, 2, (), True),
)  # fmt: skip


def select(patterns: Sequence[str]) -> list[Entry]:
    """Those that `--only` names, ENGINE or ENGINE:FORMAT by the module's name; all for none."""
    if not patterns:
        return list(ENTRIES)
    chosen = [e for e in ENTRIES if e.key in patterns or e.module in patterns]
    known = {name for e in ENTRIES for name in (e.key, e.module)}
    if unknown := sorted(set(patterns) - known):
        raise SystemExit(f"--only {unknown[0]}: must be one of {', '.join(sorted(known))}")
    return chosen
