"""An engine whose weights are in int8 or int4, packed in memory or mapped from a cache."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.host import EngineHost
from phi3svc.engine.protocol import LoadProgress, ModelSource
from phi3svc.errors import ConfigError
from phi3svc.model import loader
from tests.devices import BACKEND


def start(path: Path, dtype: str, cache: str = "off") -> tuple[EngineHost, list[LoadProgress]]:
    told: list[LoadProgress] = []
    config = EngineConfig(kv_memory_bytes=1 << 20, num_threads=1, packed_cache=cache)
    return EngineHost([ModelSource("tiny", str(path), dtype)], config, told.append), told


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        *(("auto", "float32"), ("bfloat16", "bfloat16"), ("int8", "int8"), ("int4", "int4")),
        ("int4-g128", "int4"),
    ],
)
def test_it_says_what_its_weights_are_in(tiny: Path, dtype: str, said: str) -> None:
    host, _ = start(tiny, dtype)
    assert [model.dtype for model in host.models] == [said]


def test_pages_that_a_device_has_not_are_refused_before_anything_is_loaded(tiny: Path) -> None:
    told: list[LoadProgress] = []
    wrong, right = ("fp8", "int8") if BACKEND == "cpu" else ("int8", "fp8")
    message = f"engine.kv_dtype='{wrong}': must be auto or {right} for model 'tiny' on cpu"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        EngineHost([ModelSource("tiny", str(tiny))], EngineConfig(kv_dtype=wrong), told.append)
    assert told == []


def test_packed_weights_are_kept_where_the_settings_say(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "MIN_CACHED_BYTES", 0)
    for num_entries, dtype in ((1, "int8"), (1, "int8"), (2, "int4")):
        _, told = start(tiny, dtype, str(tmp_path / "cache"))
        assert told[-1].done == told[-1].total > 0
        assert len(list((tmp_path / "cache").iterdir())) == num_entries
    start(tiny, "bfloat16", "off")
    assert len(list((tmp_path / "cache").iterdir())) == 2
