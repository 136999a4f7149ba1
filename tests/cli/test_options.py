"""Flags that become settings of the engine."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from phi3svc.cli.options import add_model_options, server_config
from phi3svc.config.engine import EngineConfig


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


def test_an_unknown_kv_dtype_is_refused() -> None:
    with pytest.raises(argparse.ArgumentError, match="invalid choice: 'int4'"):
        engine_config("--kv-dtype", "int4")
