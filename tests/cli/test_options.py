"""Flags that become settings of the engine."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from phi3svc.cli.bench import _serve_flags
from phi3svc.cli.options import (
    add_client_options,
    add_model_options,
    check_address,
    server_config,
)
from phi3svc.config.engine import EngineConfig
from phi3svc.errors import ConfigError


def engine_config(*flags: str) -> EngineConfig:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_model_options(parser)
    return server_config(parser.parse_args(flags)).engine


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[engine]\nkv_dtype = "int8"\nkv_memory_bytes = 5\n')
    file = ("--config", str(path))
    assert engine_config().kv_dtype == "auto"
    assert engine_config("--kv-dtype", "int8").kv_dtype == "int8"
    assert engine_config(*file).kv_dtype == "int8"
    both = engine_config(*file, "--kv-dtype", "auto", "--kv-memory", "3")
    assert (both.kv_dtype, both.kv_memory_bytes) == ("auto", 3 << 20)


def test_packed_weights_are_kept_where_the_flag_says(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[engine]\npacked_cache = "/x"\npacked_cache_bytes = 7\n')
    file = ("--config", str(path))
    assert engine_config().packed_cache == "auto"
    assert engine_config("--packed-cache", "off").packed_cache == "off"
    assert engine_config(*file).packed_cache == "/x"
    both = engine_config(*file, "--packed-cache", "/y")
    assert (both.packed_cache, both.packed_cache_bytes) == ("/y", 7)


def test_threads_are_pinned_where_the_flag_or_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[engine]\npin_threads = true\n")
    file = ("--config", str(path))
    assert not engine_config().pin_threads
    assert engine_config("--pin-threads").pin_threads
    assert engine_config(*file).pin_threads
    assert not engine_config(*file, "--no-pin-threads").pin_threads


@pytest.mark.parametrize("flag", ["--pin-threads", "--no-pin-threads", "--threads=3"])
def test_bench_starts_its_server_with_the_flags_it_was_given(flag: str) -> None:
    parser = argparse.ArgumentParser()
    add_client_options(parser)
    assert flag in _serve_flags(parser.parse_args([flag]))


def test_an_unknown_kv_dtype_is_refused() -> None:
    with pytest.raises(argparse.ArgumentError, match="invalid choice: 'int4'"):
        engine_config("--kv-dtype", "int4")


@pytest.mark.parametrize(
    "flags",
    [
        *(("--model", "demo"), ("--threads", "0"), ("--kv-dtype", "int8"), ("--dtype", "int4")),
        ("--pin-threads",),
        *(("--packed-cache", "off"), ("--config", "no.toml")),
    ],
)
def test_a_flag_of_the_server_is_refused_where_one_runs_already(flags: tuple[str, ...]) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_client_options(parser)
    check_address(parser.parse_args(flags))
    with pytest.raises(ConfigError, match=f"{flags[0]}: not with --address"):
        check_address(parser.parse_args([*flags, "--address", "localhost:1"]))
