"""What `phi3svc serve` runs: models, listeners, limits. Read from flags and an optional TOML file.

    listen = ["127.0.0.1:50051", "unix:/run/phi3svc.sock"]
    grace_s = 30

    [[models]]
    name = "mini"
    source = "/models/Phi-3-mini-4k-instruct"

    [engine]
    num_threads = 2

Every key may be left out; an unknown one is an error that names it.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from phi3svc.config.checkpoint import EMBEDDED_MODELS
from phi3svc.config.engine import EngineConfig
from phi3svc.config.model import BYTES_PER_ELEMENT
from phi3svc.config.quantization import FLOAT8, INTEGER_DTYPES
from phi3svc.errors import ConfigError

DTYPES = ("auto", *BYTES_PER_ELEMENT, *INTEGER_DTYPES, FLOAT8)
DEFAULT_LISTEN = ("127.0.0.1:50051",)

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class ModelSpec:
    """One model to serve: the name clients use, where its checkpoint is, and where it runs.

    device: None for the server's.
    """

    name: str
    source: str
    dtype: str = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"model name {self.name!r}: must be 1 to 128 letters, digits, '.', '_' or '-'"
            )
        if not self.source:
            raise ConfigError(f"model {self.name!r}: source is empty")
        _one_of("dtype", self.dtype, DTYPES)
        if self.device is not None:
            _check_device(self.device)

    @classmethod
    def parse(cls, text: str, dtype: str = "auto") -> ModelSpec:
        """`[NAME=]SOURCE` as on the command line; the name defaults to the source's last part."""
        name, equals, source = text.partition("=")
        if not equals:
            name, source = Path(text.rstrip("/")).name.partition("@")[0], text
        return cls(name, source, dtype)


@dataclass(frozen=True)
class ServerConfig:
    """A whole server. `listen`: `host:port` (port 0 picks one) or `unix:path`.

    dtype, device: for models that do not name their own; auto follows the checkpoint.
    grace_s: seconds that running streams get on SIGTERM. max_receive_bytes: largest request.
    slow_reader_timeout_s: a stream whose client takes nothing for so long is ended.
    """

    models: tuple[ModelSpec, ...] = field(
        default_factory=lambda: tuple(ModelSpec(name, name) for name in EMBEDDED_MODELS)
    )
    dtype: str = "auto"
    listen: tuple[str, ...] = DEFAULT_LISTEN
    device: str = "cpu"
    grace_s: float = 30.0
    max_receive_bytes: int = 4 << 20
    slow_reader_timeout_s: float = 30.0
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models: at least one is needed")
        _one_of("dtype", self.dtype, DTYPES)
        names = [m.name for m in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"model name {name!r} is given twice; use --model NAME=SOURCE")
        if not self.listen:
            raise ConfigError("listen: at least one address is needed")
        for address in self.listen:
            _check_address(address)
        _check_device(self.device)
        if not 0 <= self.grace_s <= 3600:
            raise ConfigError(f"grace_s={self.grace_s}: must be 0 to 3600 seconds")
        if not 0.01 <= self.slow_reader_timeout_s <= 3600:
            raise ConfigError(
                f"slow_reader_timeout_s={self.slow_reader_timeout_s}: must be 0.01 to 3600 seconds"
            )
        if not 64 << 10 <= self.max_receive_bytes <= 64 << 20:
            raise ConfigError(
                f"max_receive_bytes={self.max_receive_bytes}: must be 65536 to 67108864"
            )

    def models_to_load(self) -> tuple[ModelSpec, ...]:
        """The models, each with dtype and device settled from its own or the server's setting."""
        return tuple(
            dataclasses.replace(
                m,
                dtype=self.dtype if m.dtype == "auto" else m.dtype,
                device=m.device or self.device,
            )
            for m in self.models
        )


def load_server_config(
    path: Path | None, overrides: dict[str, Any], engine_overrides: dict[str, Any]
) -> ServerConfig:
    """The TOML file's settings (none when `path` is None), with command-line values on top.

    An override of None means "not given". Raises ConfigError naming file and key.
    """
    settings = _read_toml(path) if path is not None else {}
    where = str(path) if path is not None else "settings"
    settings |= {key: value for key, value in overrides.items() if value is not None}
    engine = settings.setdefault("engine", {})
    if isinstance(engine, dict):
        engine |= {key: value for key, value in engine_overrides.items() if value is not None}
        _refuse_unknown(engine, EngineConfig, f"{where}: engine")
    for model in settings.get("models", ()):
        if isinstance(model, dict):
            _refuse_unknown(model, ModelSpec, f"{where}: models")
            if "name" not in model and isinstance(model.get("source"), str):
                model["name"] = ModelSpec.parse(model["source"]).name
    _refuse_unknown(settings, ServerConfig, where)
    try:
        return msgspec.convert(settings, ServerConfig, from_attributes=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > 1 << 20:
            raise ConfigError(f"{path}: larger than 1 MiB, not a settings file")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}".replace("\n", " ")) from None


def _refuse_unknown(values: dict[str, Any], kind: type, where: str) -> None:
    known = [f.name for f in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")


def _one_of(field_name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{field_name}={value!r}: must be one of {', '.join(allowed)}")


def _check_device(device: object) -> None:
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise ConfigError(f"device={device!r}: must be cpu, cuda or cuda:N")


def _check_address(address: str) -> None:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        # sockaddr_un holds 108 bytes, the terminating zero included.
        if not path or len(path.encode()) > 107:
            raise ConfigError(f"listen={address!r}: a unix path must be 1 to 107 bytes")
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"listen={address!r}: must be host:port (0 to 65535) or unix:path")
