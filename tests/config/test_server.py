"""Server settings: flags over file over defaults, and every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest

from phi3svc.config.server import ModelSpec, ServerConfig, load_server_config
from phi3svc.errors import ConfigError

SETTINGS = """
listen = ["127.0.0.1:0", "unix:/tmp/x.sock"]
dtype = "float32"
grace_s = 5

[[models]]
source = "/models/Phi-3-mini-4k-instruct"

[[models]]
name = "small"
source = "demo"
dtype = "bfloat16"
device = "cuda:1"

[engine]
max_step_tokens = 64
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS)
    return path


def test_file_fills_every_part(settings: Path) -> None:
    config = load_server_config(settings, {}, {})
    assert [m.name for m in config.models] == ["Phi-3-mini-4k-instruct", "small"]
    assert [m.dtype for m in config.models_to_load()] == ["float32", "bfloat16"]
    assert [m.device for m in config.models_to_load()] == ["cpu", "cuda:1"]
    assert config.listen == ("127.0.0.1:0", "unix:/tmp/x.sock")
    assert config.grace_s == 5.0
    assert config.engine.max_step_tokens == 64


def test_flags_win_over_the_file_and_none_means_not_given(settings: Path) -> None:
    overrides = {"models": [ModelSpec.parse("a=demo")], "listen": ["unix:/y"], "dtype": None}
    config = load_server_config(settings, overrides, {"num_threads": 3, "kv_memory_bytes": None})
    assert config.models == (ModelSpec("a", "demo"),)
    assert config.listen == ("unix:/y",)
    assert config.dtype == "float32"
    assert (config.engine.num_threads, config.engine.max_step_tokens) == (3, 64)


def test_defaults_serve_the_embedded_models_on_loopback() -> None:
    config = load_server_config(None, {}, {})
    assert config == ServerConfig()
    assert [m.source for m in config.models] == ["demo", "demo-sentiment", "demo-entities"]
    assert config.listen == ("127.0.0.1:50051",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", ModelSpec("demo", "demo")),
        ("mini=/models/x", ModelSpec("mini", "/models/x")),
        ("/models/Phi-3/", ModelSpec("Phi-3", "/models/Phi-3/")),
        (
            "microsoft/Phi-3-mini-4k-instruct@main",
            ModelSpec("Phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-4k-instruct@main"),
        ),
    ],
)
def test_model_flag_names_source_and_name(text: str, expected: ModelSpec) -> None:
    assert ModelSpec.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listen = 3", "listen"),
        ('listen = ["nowhere"]', "host:port (0 to 65535) or unix:path"),
        ('listen = ["127.0.0.1:70000"]', "65535"),
        ("listen = []", "at least one address"),
        ("models = []", "at least one"),
        ('[[models]]\nname = "x"', "source"),
        ('[[models]]\nsource = "demo"\n[[models]]\nsource = "demo"', "given twice"),
        ('[[models]]\nsource = "demo"\nname = "a b"', "a b"),
        ('[[models]]\nsource = "demo"\ncolour = "red"', "colour"),
        ('dtype = "int3"', "int3"),
        ('device = "gpu"', "device='gpu': must be cpu, cuda or cuda:N"),
        ('[[models]]\nsource = "demo"\ndevice = "cuda:x"', "cuda:x"),
        ("[engine]\nkv_memory_share = 1.5", "kv_memory_share=1.5: must be 0 to 1"),
        ("grace_s = -1", "grace_s"),
        ("max_receive_bytes = 1", "max_receive_bytes"),
        ("engine = 7", "engine"),
        ("[engine]\nmax_step_tokens = 0", "max_step_tokens"),
        ("[engine]\nnum_threads = true", "num_threads"),
        ("[engine]\nprefix_cache = 1", "prefix_cache"),
        ("[engine.tenant_weights]\ngold = 0", "tenant_weights.gold=0"),
        ("grace_s = ", "settings.toml"),
        ("speed = 11", "speed"),
    ],
)
def test_every_mistake_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_server_config(path, {}, {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    with pytest.raises(ConfigError) as error:
        load_server_config(path, {}, {})
    assert str(error.value) == f"{path}: No such file or directory"
