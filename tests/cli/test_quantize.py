"""`phi3svc quantize`: what it writes is what `--dtype` makes while loading, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi3svc import Phi3ForCausalLM
from phi3svc.cli.main import main
from phi3svc.config.checkpoint import EMBEDDED_DIR, fingerprint
from phi3svc.config.model import Phi3Config
from phi3svc.config.quantization import Quantization
from phi3svc.errors import ConfigError
from phi3svc.model import quantized_checkpoint
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network
from phi3svc.model.quantized_checkpoint import QuantizedWeight
from tests.cli.command import COMMAND, ENV, phi3svc
from tests.model.checkpoints import (
    make_checkpoint,
    make_tiny_causal,
    make_tiny_sequence,
    make_tiny_token,
    to_old_dialect,
)
from tests.model.decoding import prefill
from tests.model.small_checkpoints import make_small_checkpoint

FLAGS = {
    "int8": ["--dtype", "int8"],
    "int4-g32-min": [],
    "int4-g32": ["--symmetric"],
    "int4-g128-min": ["--dtype", "int4", "--group-size", "128"],
    "int4-g128": ["--group-size", "128", "--symmetric"],
    "int4-g32-min-head4": ["--head-bits", "4"],
}
KINDS: dict[str, Callable[[Path], Path]] = {
    "generation": make_tiny_causal,
    "tied": partial(make_tiny_causal, tie_word_embeddings=True),
    "no head": partial(make_checkpoint, architecture="Phi3Model", dtype="bfloat16"),
    "bfloat16 shards": partial(make_tiny_causal, dtype="bfloat16", max_shard_size="100KB"),
    "sequence classifier": make_tiny_sequence,
    "token classifier": make_tiny_token,
    "phi3small": make_small_checkpoint,
    "phi3small classifier": partial(make_small_checkpoint, num_labels=3),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def nothing_but(folder: Path, *names: str) -> bool:
    """Hidden files count as well."""
    return sorted(file.name for file in folder.iterdir()) == sorted(names)


def outputs(network: Network) -> list[torch.Tensor]:
    """Everything that the network says of a few tokens."""
    ids = [5, 9, 33, 7, 250, 1]
    hidden = prefill(network, ids)
    rows = torch.arange(len(ids), dtype=torch.int32)
    said = [hidden]
    if "generation" in network.heads:
        said.append(network.logits(hidden, rows).clone())
    if network.weights.score is not None:
        said.append(network.scores(hidden, rows).clone())
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", ["int8", "int4-g32-min"])
def test_the_folder_is_what_loading_would_make(
    tmp_path: Path, out: Path, kind: str, format: str
) -> None:
    source = KINDS[kind](tmp_path / "source")
    assert main(["quantize", str(source), str(out), *FLAGS[format]]) == 0
    expected = outputs(load_network(source, format))
    for dtype in ("auto", format.partition("-")[0]):
        found = outputs(load_network(out, dtype))
        assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("format", FLAGS)
def test_config_json_says_how(out: Path, format: str) -> None:
    assert main(["quantize", "demo", str(out), *FLAGS[format]]) == 0
    config, before = Phi3Config.from_dir(out), Phi3Config.from_dir(EMBEDDED_DIR / "demo")
    assert config.quantization == Quantization.of(format)
    assert load_network(out).format == format
    said, said_before = (
        json.loads((folder / "config.json").read_text()) for folder in (out, EMBEDDED_DIR / "demo")
    )
    assert said == said_before | {"quantization_config": said["quantization_config"]}
    assert config.eos_token_ids == before.eos_token_ids
    assert fingerprint(out) != fingerprint(EMBEDDED_DIR / "demo")


def test_what_is_not_rounded_is_bfloat16(tmp_path: Path, out: Path) -> None:
    source = to_old_dialect(make_tiny_causal(tmp_path / "source", dtype="float32"))
    assert main(["quantize", str(source), str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "torch_dtype" not in config
    norm = "model.norm.weight"
    weights, written = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    assert torch.equal(written[norm], weights[norm].bfloat16())


def test_everything_but_readmes_comes_along(out: Path) -> None:
    assert main(["quantize", "demo", str(out)]) == 0
    source = EMBEDDED_DIR / "demo"
    names = {file.name for file in source.iterdir()} - {"README.md"}
    assert nothing_but(out, *names)
    for name in names - {"config.json", "model.safetensors"}:
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert nothing_but(out.parent, out.name)
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def with_super_weight(path: Path) -> Path:
    """A checkpoint whose layer 1 has a weight that its row's others cannot be rounded beside."""
    make_tiny_causal(path, intermediate_size=512)
    name = "model.layers.1.mlp.down_proj.weight"
    weights = load_file(path / "model.safetensors")
    weights[name][3, 5] = 150 * weights[name].std()
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return path


def test_the_report_has_every_layer(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = with_super_weight(tmp_path / "source")
    assert main(["quantize", str(source), str(out), "--group-size", "128"]) == 0
    shown = capsys.readouterr()
    assert "quantizing source (" in shown.err
    text = " ".join(shown.out.split())  # the table breaks lines as the terminal needs it
    number = r" (\d+\.\d+)" * 3
    ordinary = re.search(rf"layer 0{number} int4-g128-min layer 1", text)
    kept = re.search(
        rf"layer 1{number} int4-g128-min; down_proj bfloat16 "
        r"\(worst row (\S+) in int4-g128-min, (\S+) in int8\)",
        text,
    )
    head = re.search(rf"lm_head{number} lm_head int8 layer 0", text)
    assert ordinary, text
    assert kept, text
    assert head, text
    assert float(kept[1]) > float(ordinary[1])  # bits
    assert float(kept[4]) > 0.24
    assert float(kept[5]) > 0.1
    assert 0 < float(head[2]) <= float(head[3]) < 0.02
    after = (out / "model.safetensors").stat().st_size / (1 << 20)
    assert re.search(rf"out: {after:.1f} MiB, \d+% of the \d\.\d MiB before; \d", text)


def test_a_quantized_folder_serves_and_says_what_it_is(out: Path) -> None:
    assert phi3svc("quantize", "demo-sentiment", str(out), "--dtype", "int8").returncode == 0
    text = "The room was clean and the staff were lovely."
    done = phi3svc("classify", text, "--model", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert '"positive"' in done.stdout
    assert phi3svc("info", str(out)).returncode == 0
    refused = phi3svc("classify", text, "--model", str(out), "--dtype", "bfloat16")
    assert refused.returncode == 2
    assert "dtype='bfloat16': the checkpoint is quantized to int8" in refused.stderr


def test_a_quantized_folder_is_loaded_by_the_python_api(out: Path) -> None:
    assert main(["quantize", "demo", str(out)]) == 0
    ids = torch.tensor([[7, 20, 300, 41]])
    logits = Phi3ForCausalLM.from_pretrained(out)(ids).logits
    said = Phi3ForCausalLM.from_pretrained(out, dtype=torch.bfloat16)  # what it computes in
    assert said.dtype == torch.bfloat16
    assert torch.equal(said(ids).logits, logits)
    with pytest.raises(ConfigError, match="dtype='float32': the checkpoint is quantized"):
        Phi3ForCausalLM.from_pretrained(out, dtype=torch.float32)
    exact = Phi3ForCausalLM.from_pretrained("demo")(ids).logits
    assert not torch.equal(logits, exact)
    assert torch.cosine_similarity(logits.flatten(), exact.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4-g128"])
def test_another_dtype_than_the_stored_one_is_refused(out: Path, dtype: str) -> None:
    assert main(["quantize", "demo", str(out)]) == 0
    with pytest.raises(ConfigError, match=re.escape(f"{out}: dtype={dtype!r}: the checkpoint is")):
        load_network(out, dtype)


def expect_refusal(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, *texts: str
) -> None:
    assert main(["quantize", *arguments]) == code
    lines = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("quantizing ")
    ]
    assert len(lines) == 1
    assert all(text in lines[0] for text in texts), lines[0]


def test_nothing_is_overwritten(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    for name in ("out", "file", "link", "dangling"):
        expect_refusal(capsys, ["demo", str(tmp_path / name)], 2, f"{name}: is there already")
    assert nothing_but(out, "notes.txt")
    expect_refusal(capsys, ["demo", str(tmp_path / "no" / "out")], 2, "no such folder")
    expect_refusal(capsys, ["demo", "/"], 2, "/: is there already")


def test_an_empty_folder_is_filled(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(out)
        expect_refusal(capsys, ["demo", "."], 2, ".: is the working directory")
    assert nothing_but(out.parent, out.name)
    assert main(["quantize", "demo", str(out)]) == 0
    assert (out / "config.json").exists()


def test_a_mount_point_is_no_place(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be renamed to it."""
    out.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    expect_refusal(capsys, ["demo", str(out)], 2, f"{out}: is where a disk is mounted")


def test_a_setting_that_cannot_be_read_is_named(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tiny_causal(tmp_path / "source")
    capsys.readouterr()
    file = source / "special_tokens_map.json"
    file.write_text("x" * 1000)
    monkeypatch.setattr(quantized_checkpoint, "MAX_SETTINGS_BYTES", 999)
    expect_refusal(capsys, [str(source), str(out)], 2, f"{source}/", "larger than 999 bytes")
    assert nothing_but(tmp_path, "source")


def test_what_is_quantized_is_not_quantized_again(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", "demo", str(out)]) == 0
    capsys.readouterr()
    again = out.parent / "again"
    expect_refusal(capsys, [str(out), str(again)], 2, str(out), "quantized already")
    assert nothing_but(out.parent, out.name)


def test_int8_has_no_groups(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in (["--group-size", "32"], ["--symmetric"], ["--head-bits", "8"]):
        expect_refusal(capsys, ["demo", str(out), "--dtype", "int8", *flag], 2, flag[0], "int8")


def test_a_broken_checkpoint_leaves_nothing(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_tiny_causal(tmp_path / "source", max_shard_size="100KB")
    next(source.glob("model-00002*")).unlink()
    capsys.readouterr()
    expect_refusal(capsys, [str(source), str(out)], 2, "model-00002")
    assert nothing_but(tmp_path, "source")


@pytest.mark.parametrize("after_num_weights", [0, 3])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    after_num_weights: int,
) -> None:
    told = 0
    describe = quantized_checkpoint._describe

    def count(weight: Any) -> QuantizedWeight:
        nonlocal told
        told += 1
        return describe(weight)

    def allocate(descriptor: int, offset: int, length: int) -> None:
        if told >= after_num_weights:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.truncate(descriptor, max(offset + length, os.fstat(descriptor).st_size))

    monkeypatch.setattr(quantized_checkpoint, "_describe", count)
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    expect_refusal(capsys, ["demo", str(out)], 1, str(out), "No space left on device")
    assert told == after_num_weights
    assert nothing_but(out.parent)


def test_a_file_size_limit_is_one_line_and_leaves_nothing(out: Path) -> None:
    limit = 300 << 10  # the tokenizer fits, and the weights do not
    done = subprocess.run(
        [*COMMAND, "quantize", "demo", str(out)],
        capture_output=True,
        text=True,
        env=ENV,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert re.search(r"^phi3svc: .*/out: File too large; nothing was written\n", done.stderr, re.M)
    assert nothing_but(out.parent)


def test_an_interrupted_run_leaves_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(weight: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantized_checkpoint, "_describe", interrupt)
    assert main(["quantize", "demo", str(out)]) == 130
    assert nothing_but(out.parent)
