"""Where a model comes from, and the digest of what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest

from phi3svc.config import checkpoint as sources
from phi3svc.config.checkpoint import Checkpoint, fingerprint, resolve_source
from phi3svc.errors import ConfigError
from tests.model.conftest import MakeCheckpoint


def ask_no_hub(*_: object, **__: object) -> None:
    raise AssertionError("asked the hub")


def test_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert resolve_source(str(folder)) == Checkpoint(folder, "my-model")
    monkeypatch.chdir(folder)
    assert resolve_source(".").name == "my-model"
    monkeypatch.chdir(tmp_path)
    assert resolve_source("my-model/") == Checkpoint(Path("my-model"), "my-model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_source("~/my-model") == Checkpoint(folder, "my-model")


def test_embedded_name_goes_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent in (tmp_path / "embedded", tmp_path / "cwd"):
        (parent / "demo").mkdir(parents=True)
        (parent / "demo" / "config.json").write_text("{}")
    monkeypatch.setattr(sources, "EMBEDDED_DIR", tmp_path / "embedded")
    monkeypatch.chdir(tmp_path / "cwd")
    assert resolve_source("demo") == Checkpoint(tmp_path / "embedded" / "demo", "demo")
    assert resolve_source("./demo") == Checkpoint(Path("demo"), "demo")
    with pytest.raises(ConfigError, match="'demo-entities' is not part of this installation"):
        resolve_source("demo-entities")


@pytest.mark.parametrize(
    "source",
    [
        "/no/such/folder", "./nope", "../nope", "~/nope", "nope", "a/b/c", "C:\\models", "-x/y",
        "org/name@", "org/na me", "x" * 5000, "org/name@" + "r" * 500,
    ],
    ids=lambda s: s[:12],
)  # fmt: skip
def test_folder_that_is_not_there(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that looks like a path reaches the hub."""
    monkeypatch.setattr(huggingface_hub, "HfApi", ask_no_hub)
    with pytest.raises(ConfigError) as caught:
        resolve_source(source)
    text = str(caught.value)
    assert "no such folder" in text or "File name too long" in text
    assert len(text) < 400


@pytest.mark.parametrize("source", ["", "  ", "a\0b"], ids=repr)
def test_source_that_is_nothing(source: str) -> None:
    with pytest.raises(ConfigError, match="expected a folder or a hub id"):
        resolve_source(source)


def test_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="is a file; expected a checkpoint's folder"):
        resolve_source(str(tmp_path / "model.gguf"))


def test_missing_folder_beside_others_is_not_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", ask_no_hub)
    with pytest.raises(ConfigError, match="no such folder in 'models'"):
        resolve_source("models/phi")


def test_fingerprint_tells_checkpoints_apart(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = shutil.copytree(checkpoint(), tmp_path / "copy")
    digest = fingerprint(path)
    assert len(bytes.fromhex(digest)) == 32
    assert fingerprint(checkpoint()) == digest
    assert fingerprint(checkpoint(max_shard_size="100KB")) == digest
    assert fingerprint(checkpoint(seed=1)) != digest
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        text = (path / name).read_text()
        (path / name).write_text(text + " ")
        assert fingerprint(path) != digest
        (path / name).write_text(text)
    for name in ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"):
        assert not (path / name).exists()
        (path / name).write_text("{}")
        assert fingerprint(path) != digest
        (path / name).unlink()
    (path / "tokenizer.json").unlink()
    digests = set()
    for text in ("YQ== 0", "YQ== 1"):
        (path / "cl100k_base.tiktoken").write_text(text)
        digests.add(fingerprint(path))
    assert len(digests | {digest}) == 3
    (path / "cl100k_base.tiktoken").unlink()
    shutil.copy(checkpoint() / "tokenizer.json", path)
    assert fingerprint(path) == digest
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    assert fingerprint(path) != digest
