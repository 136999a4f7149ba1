"""What is wrong at start ends in one clear line and exit code 2, never in a traceback."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from phi3svc.config.checkpoint import EMBEDDED_DIR
from tests.cli.command import phi3svc


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A private copy of an embedded checkpoint, to be damaged."""
    return Path(shutil.copytree(EMBEDDED_DIR / "demo-sentiment", tmp_path / "model"))


def assert_one_line(args: list[str], *expected: str) -> None:
    done = phi3svc(*args)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("loading ")]
    assert done.returncode == 2, done
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("phi3svc: error: "), done.stderr
    assert "Traceback" not in done.stderr
    for text in expected:
        assert text in lines[0], lines[0]


def serve_args(checkpoint: Path) -> list[str]:
    return ["serve", "--model", str(checkpoint), "--listen", "127.0.0.1:0"]


def test_missing_folder_is_named() -> None:
    assert_one_line(serve_args(Path("/no/such/model")), "/no/such/model", "no such folder")


def test_truncated_weights_are_refused(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert_one_line(serve_args(checkpoint), "model.safetensors")


def test_empty_weights_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"")
    assert_one_line(serve_args(checkpoint), "model.safetensors")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", -1),
        ("hidden_size", 1 << 40),
        ("num_hidden_layers", 0),
        ("num_attention_heads", "four"),
        ("vocab_size", 1e30),
        ("rms_norm_eps", -1),
        ("model_type", "llama"),
    ],
)
def test_absurd_config_field_is_named(checkpoint: Path, field: str, value: object) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config[field] = value
    path.write_text(json.dumps(config))
    assert_one_line(serve_args(checkpoint), field)


def test_missing_config_field_is_named(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    del config["hidden_size"]
    path.write_text(json.dumps(config))
    assert_one_line(serve_args(checkpoint), "hidden_size")


def test_missing_tokenizer_is_named(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    assert_one_line(serve_args(checkpoint), "tokenizer.json")


def test_busy_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(["serve", "--listen", address], address)


def test_malformed_address_is_named() -> None:
    assert_one_line(["serve", "--listen", "localhost"], "listen='localhost'", "host:port")


def test_impossible_thread_count_is_named() -> None:
    assert_one_line(["serve", "--threads", "-1"], "num_threads")


def test_unknown_key_in_settings_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[engine]\nnum_thread = 2\n")
    assert_one_line(["serve", "--config", str(path)], str(path), "num_thread", "num_threads")


def test_settings_of_wrong_type_are_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('grace_s = "soon"\n')
    assert_one_line(["serve", "--config", str(path)], str(path), "grace_s")


def test_unreadable_settings_file_is_named(tmp_path: Path) -> None:
    assert_one_line(["serve", "--config", str(tmp_path / "none.toml")], "none.toml")


def test_unknown_log_level_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cli import command

    monkeypatch.setitem(command.ENV, "PHI3SVC_LOG", "loud")
    assert_one_line(["info", "demo"], "PHI3SVC_LOG", "loud")


def test_unknown_isa_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cli import command

    monkeypatch.setitem(command.ENV, "PHI3SVC_CPU_ISA", "neon9")
    assert_one_line(["serve", "--listen", "127.0.0.1:0"], "PHI3SVC_CPU_ISA", "neon9")


def test_unreachable_server_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = phi3svc("generate", "Hello", "--address", address)
    assert done.returncode == 1
    assert re.fullmatch(rf"phi3svc: .*{re.escape(address)}.*\n", done.stderr), done.stderr
