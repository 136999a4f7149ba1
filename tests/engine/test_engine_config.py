from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("max_step_tokens", 0, "1 to 1048576"),
        ("max_step_tokens", True, "1 to 1048576"),
        ("num_threads", False, "0 to 256"),
        ("max_sequences", 65537, "1 to 65536"),
        ("max_waiting_requests", 0, "1 to 1048576"),
        ("max_waiting_tokens", -1, "1 to 4294967296"),
        ("kv_memory_bytes", -1, "0 to 281474976710656"),
        ("num_threads", 257, "0 to 256"),
        ("packed_cache_bytes", -1, "0 to 281474976710656"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(
    setting: str, value: int, allowed: str
) -> None:
    with pytest.raises(ConfigError, match=f"engine.{setting}={value}: must be {allowed}"):
        EngineConfig(**{setting: value})


@pytest.mark.parametrize(("setting", "default"), [("prefix_cache", True), ("pin_threads", False)])
def test_a_switch_is_on_or_off(setting: str, default: bool) -> None:
    assert getattr(EngineConfig(), setting) is default
    assert getattr(EngineConfig(**{setting: not default}), setting) is not default
    with pytest.raises(ConfigError, match=rf"engine\.{setting}=1: must be true or false"):
        EngineConfig(**{setting: 1})


def test_the_kv_dtype_is_one_of_three() -> None:
    assert EngineConfig().kv_dtype == "auto"
    assert EngineConfig(kv_dtype="int8").kv_dtype == "int8"
    with pytest.raises(ConfigError, match=r"engine\.kv_dtype='int4': must be .* auto, int8, fp8"):
        EngineConfig(kv_dtype="int4")


@pytest.mark.parametrize("weight", [0, 101, 1.5, True])
def test_a_weight_out_of_range_is_named(weight: int) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.tenant_weights\.gold={weight}: must be 1 to"):
        EngineConfig(tenant_weights={"gold": weight})


@pytest.mark.parametrize(
    ("setting", "variables", "folder"),
    [
        ("off", {"HOME": "/home/ada"}, None),
        ("/var/cache/x", {"HOME": "/home/ada"}, "/var/cache/x"),
        ("~/x", {"HOME": "/home/ada"}, "/home/ada/x"),
        ("auto", {"HOME": "/home/ada"}, "/home/ada/.cache/phi3svc/packed"),
        ("auto", {"HOME": "/home/ada", "XDG_CACHE_HOME": "/x"}, "/x/phi3svc/packed"),
        ("auto", {"HOME": "/home/ada", "XDG_CACHE_HOME": ""}, "/home/ada/.cache/phi3svc/packed"),
        ("auto", {"HOME": "/home/ada", "XDG_CACHE_HOME": "x"}, "/home/ada/.cache/phi3svc/packed"),
    ],
)
def test_packed_weights_have_a_folder(
    setting: str, variables: dict[str, str], folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = None if folder is None else Path(folder)
    assert EngineConfig(packed_cache=setting).packed_cache_folder == expected


def test_a_user_without_a_home_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert EngineConfig().packed_cache_folder is None


@pytest.mark.parametrize("setting", ["", "a\0b", "~nobody-of-this-name/x", 7])
def test_the_packed_cache_is_a_folder(setting: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"engine\.packed_cache=.*: must be auto, off or a folder"
    ):
        EngineConfig(packed_cache=setting)


def test_a_gpu_takes_larger_steps_unless_told() -> None:
    assert [EngineConfig().step_tokens(device) for device in ("cpu", "cuda")] == [512, 2048]
    told = EngineConfig(max_step_tokens=64)
    assert [told.step_tokens(device) for device in ("cpu", "cuda")] == [64, 64]
