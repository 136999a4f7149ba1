"""Where a model comes from: a local folder, an embedded model, or a Hugging Face hub id."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from phi3svc.config.files import open_file, read_file
from phi3svc.config.hub import download
from phi3svc.config.tensors import list_tensors
from phi3svc.errors import ConfigError

EMBEDDED_MODELS = ("demo", "demo-sentiment", "demo-entities")
EMBEDDED_DIR = Path(__file__).resolve().parent.parent / "embedded"

_HUB_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(
    rf"(?P<repo>{_HUB_PART}/{_HUB_PART})(?:@(?P<revision>[A-Za-z0-9._/-]{{1,128}}))?"
)
_DECIDING_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_EDGE_BYTES = 4096
_MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine. name: what to call the model when nobody says otherwise."""

    path: Path
    name: str


def resolve_source(source: str) -> Checkpoint:
    """Find the checkpoint that `source` names.

    source: `demo`, `demo-sentiment` or `demo-entities` (a folder of that name is `./demo`); a local
    folder; or a hub id `org/name[@revision]`, downloaded by huggingface_hub, whose cache and
    environment (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN) hold. Raises ConfigError in one line.
    """
    if source in EMBEDDED_MODELS:
        path = EMBEDDED_DIR / source
        if not (path / "config.json").is_file():
            raise ConfigError(f"embedded model {source!r} is not part of this installation")
        return Checkpoint(path, source)
    if "\0" in source or not source.strip():
        raise ConfigError(f"model source {source!r}: expected a folder or a hub id org/name")
    path = Path(source)
    if source.startswith("~"):
        path = path.expanduser()
    try:
        if path.is_dir():
            return Checkpoint(path, path.resolve().name)
        if path.exists():
            raise ConfigError(
                f"model source {source!r}: is a file; expected a checkpoint's folder, with "
                "its weights in safetensors"
            )
    except OSError as error:
        raise ConfigError(f"model source {source[:200]!r}: {error.strerror}") from None
    hub_id = _HUB_ID.fullmatch(source)
    if hub_id is None:
        raise ConfigError(
            f"model source {source[:200]!r}: no such folder, and neither a hub id org/name nor one "
            f"of {', '.join(EMBEDDED_MODELS)}"
        )
    if path.parent.is_dir():
        raise ConfigError(f"model source {source!r}: no such folder in {str(path.parent)!r}")
    repo = hub_id["repo"]
    try:
        return Checkpoint(download(repo, hub_id["revision"]), repo.partition("/")[2])
    except ConfigError as error:
        raise ConfigError(f"model source {source!r}: {error}") from None


def tokenizer_file(path: Path) -> Path:
    """The file that decides the tokens of the checkpoint in folder `path`.

    That is tokenizer.json, there or not, unless only a `.tiktoken` file is there. ConfigError if
    there are several of those.
    """
    file = path / "tokenizer.json"
    if file.exists():
        return file
    others = sorted(path.glob("*.tiktoken"))
    if len(others) > 1:
        raise ConfigError(f"{path}: both {others[0].name} and {others[1].name}; expected one")
    return others[0] if others else file


def fingerprint(path: Path) -> str:
    """A digest of the checkpoint's content, 64 hex digits, that costs milliseconds.

    SHA-256 over the files that decide settings and tokens (whole), and, per tensor by name, its
    dtype, shape and size and the first and last 4 KiB of its data. It tells checkpoints apart and
    does not depend on folder or sharding; it is no defence against somebody who changes only the
    middle of a weight.
    """
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:  # lengths first, so that no two lists of parts look alike
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)

    try:
        for name in (*_DECIDING_FILES, tokenizer_file(path).name):
            file = path / name
            add(name.encode(), read_file(file, _MAX_FILE_BYTES) if file.exists() else b"")
        for name, tensor in sorted(list_tensors(path).items()):
            edge = min(_EDGE_BYTES, tensor.num_bytes)
            with open_file(tensor.file) as stream:
                stream.seek(tensor.offset)
                first = stream.read(edge)
                stream.seek(tensor.offset + tensor.num_bytes - edge)
                last = stream.read(edge)
            shape = ",".join(map(str, tensor.shape))
            add(name.encode(), tensor.dtype.encode(), shape.encode(), first, last)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()
