"""Checkpoints from the hub, by the real client, from a hub on loopback."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from phi3svc.config import hub as hub_module
from phi3svc.config.checkpoint import Checkpoint, resolve_source
from phi3svc.errors import ConfigError
from tests.config.hub_server import HubServer

OLD, NEW = "a" * 40, "b" * 40
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
INDEX = "model.safetensors.index.json"
SMALL = {"config.json": b"{}", "tokenizer.json": b"{ }", "chat_template.jinja": b"x"}
OTHERS = {
    "README.md": b"#",
    "modeling_phi3.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80",
    "original/model.safetensors": b"",
    "sub/x.tiktoken": b"",
    "tokenizer.model": b"",
}
SHARDED = {
    INDEX: json.dumps({"weight_map": dict(zip("xy", SHARDS, strict=True))}).encode(),
    **{name: name.encode() for name in SHARDS},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with one model, `org/name`, whose cache is empty."""
    server = HubServer(
        {"main": NEW, "v1": OLD},
        {
            NEW: SMALL | OTHERS | SHARDED | {"model.safetensors": b"whole"},
            OLD: SMALL | OTHERS | SHARDED | {"cl100k_base.tiktoken": b"YQ== 0"},
        },
    )
    with server.serving():
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield server


def error_of(source: str) -> str:
    with pytest.raises(ConfigError) as error:
        resolve_source(source)
    text = str(error.value)
    assert text.startswith(f"model source {source!r}: ")
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_only_what_is_read_is_downloaded(hub: HubServer) -> None:
    found = resolve_source("org/name")
    assert found.name == "name"
    assert {p.name for p in found.path.iterdir()} == {*SMALL, "model.safetensors"}
    assert hub.downloads() == {*SMALL, "model.safetensors"}
    assert (found.path / "model.safetensors").read_bytes() == b"whole"


def test_a_revision_is_pinned_and_kept(hub: HubServer) -> None:
    found = resolve_source("org/name@v1")
    assert found.path.name == OLD
    names = {*SMALL, *SHARDED, "cl100k_base.tiktoken"}
    assert {p.name for p in found.path.iterdir()} == names
    hub.requests.clear()
    assert resolve_source(f"org/name@{OLD}") == found
    assert hub.requests == [], "a commit in the cache does not change"
    (found.path / "chat_template.jinja").unlink()
    assert resolve_source(f"org/name@{OLD}") == found
    assert (found.path / "chat_template.jinja").read_bytes() == b"x"
    hub.revisions["v1"] = NEW
    assert resolve_source("org/name@v1").path.name == NEW


def test_the_cache_serves_while_the_hub_does_not(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = resolve_source("org/name")
    for refusal in ((503, ""), (401, "RepoNotFound"), (403, "GatedRepo")):
        hub.refusal = refusal
        assert resolve_source("org/name") == found
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert resolve_source("org/name") == found
    assert hub.requests == []


def test_an_incomplete_cache_does_not_serve(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = resolve_source("org/name@v1")
    (found.path / SHARDS[1]).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in ("v1", OLD):
        text = error_of(f"org/name@{revision}")
        assert "not complete in" in text
        assert "HF_HUB_OFFLINE is set" in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert (resolve_source("org/name@v1").path / SHARDS[1]).exists()


def test_a_cache_laid_out_by_hand_serves_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "cache" / "models--org--name"
    snapshot = repo / "snapshots" / NEW
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(NEW)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(b"{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_source("org/name") == Checkpoint(snapshot, "name")
    (snapshot / "model.safetensors").unlink()
    assert "not complete in" in error_of("org/name")
    assert "not complete in" in error_of("org/other")


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ((401, "RepoNotFound"), "no such model on the hub that may be read; if it is private, set"),
        ((404, "RepoNotFound"), "no such model on the hub that may be read; if it is private, set"),
        ((403, "GatedRepo"), "gated: accept its terms at http://127.0.0.1:"),
        ((404, "RevisionNotFound"), "no branch, tag or commit 'v9'"),
        ((500, ""), "the hub says: HfHubHTTPError: Server error '500"),
        ((429, ""), "the hub says: HfHubHTTPError: 429 Too Many Requests"),
    ],
)
def test_refusals_say_what_to_do(hub: HubServer, refusal: tuple[int, str], advice: str) -> None:
    hub.refusal = refusal
    start = time.monotonic()
    text = error_of("org/name@v9")
    assert advice in text
    assert ("HF_TOKEN" in text) == (refusal[1] in ("RepoNotFound", "GatedRepo"))
    assert time.monotonic() - start < 5
    assert len(hub.requests) <= 6, "no storm of retries"


def test_repositories_without_a_checkpoint_are_named(hub: HubServer) -> None:
    hub.files[NEW] = SMALL | {"model-q4.gguf": b""}
    assert "neither model.safetensors nor model.safetensors.index.json" in error_of("org/name")
    hub.files[NEW] = hub.files[OLD] = SMALL | OTHERS
    assert "only pickled weights (pytorch_model.bin), which are never" in error_of("org/name")
    assert "hf download org/name --local-dir name, then give" in error_of("org/name")
    assert "hf download org/name --revision v1 --local-dir name," in error_of("org/name@v1")
    hub.files[NEW] = OTHERS | SHARDED
    assert "no config.json" in error_of("org/name")
    hub.files[NEW] = SMALL | {INDEX: SHARDED[INDEX]}
    assert f"{SHARDS[0]}: no such file" in error_of("org/name")
    assert not any(name in hub.downloads() for name in OTHERS)


def test_a_hub_that_cannot_be_reached_is_named(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    text = error_of("org/name")
    assert "the hub at http://127.0.0.1:1 cannot be reached (ConnectError: " in text
    assert "check the network, or give a local folder" in text


def test_a_silent_hub_is_given_up(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert "cannot be reached (ReadTimeout" in error_of("org/name")
        assert time.monotonic() - start < 5


def test_progress_is_shown_on_a_terminal(hub: HubServer, tmp_path: Path) -> None:
    """Also: the environment is honoured as the client documents it."""
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    code = "from phi3svc.config.checkpoint import resolve_source as r; print(r('org/name').path)"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        stderr=terminal,
        timeout=60,
        check=True,
    )
    os.close(terminal)
    shown = os.read(main, 1 << 16)
    os.close(main)
    assert b"100%" in shown
    assert process.stdout.decode().strip().startswith(str(tmp_path / "home"))
