from __future__ import annotations

import os

import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("max_step_tokens", 0, "1 to 1048576"),
        ("max_sequences", 65537, "1 to 65536"),
        ("max_waiting_requests", 0, "1 to 1048576"),
        ("max_waiting_tokens", -1, "1 to 4294967296"),
        ("kv_memory_bytes", -1, "0 to 281474976710656"),
        ("num_threads", 257, "0 to 256"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(
    setting: str, value: int, allowed: str
) -> None:
    with pytest.raises(ConfigError, match=f"engine.{setting}={value}: must be {allowed}"):
        EngineConfig(**{setting: value})


def test_the_prefix_cache_is_on_or_off() -> None:
    assert EngineConfig().prefix_cache
    assert not EngineConfig(prefix_cache=False).prefix_cache
    with pytest.raises(ConfigError, match=r"engine\.prefix_cache=1: must be true or false"):
        EngineConfig(prefix_cache=1)  # type: ignore[arg-type]


def test_the_kv_dtype_is_one_of_two() -> None:
    assert EngineConfig().kv_dtype == "auto"
    assert EngineConfig(kv_dtype="int8").kv_dtype == "int8"
    with pytest.raises(ConfigError, match=r"engine\.kv_dtype='int4': must be one of auto, int8"):
        EngineConfig(kv_dtype="int4")


@pytest.mark.parametrize("weight", [0, 101, 1.5])
def test_a_weight_out_of_range_is_named(weight: int) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.tenant_weights\.gold={weight}: must be 1 to"):
        EngineConfig(tenant_weights={"gold": weight})


def test_zero_threads_means_one_per_available_cpu() -> None:
    assert EngineConfig().num_threads_to_use == len(os.sched_getaffinity(0))
    assert EngineConfig(num_threads=3).num_threads_to_use == 3
