"""How an engine schedules, and what memory and threads it may use."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from phi3svc.errors import ConfigError

KV_DTYPES = ("auto", "int8", "fp8")

BLOCK_SIZE = 16
"""Tokens per KV block; the kernels' page size."""

MAX_THREADS = 256
"""As many as the kernels' thread pool takes."""

_MAX_STEP_TOKENS = {"cpu": 512, "cuda": 2048}


@dataclass(frozen=True)
class EngineConfig:
    """Settings of one engine, checked when it is made.

    max_step_tokens: tokens computed per step at most; longer prompts are cut into chunks. Running
    streams, cancellations and newcomers wait for a step's end, so it bounds pauses between tokens.
    None for 512 on a CPU and 2048 on a CUDA device.
    max_sequences: running at once, per model. max_waiting_requests, max_waiting_tokens: queue per
    model; beyond either, requests are refused. max_unread_tokens: of a request, times its `n`,
    that its reader has not taken; beyond it the engine works for others until that one caught up.
    kv_memory_bytes: for the KV blocks of all models on a device together, 0 for `kv_memory_share`
    (never more than the models can use). kv_memory_share: of what is free once the weights are
    loaded; 0 for a half on a CPU, and on a CUDA device, which nobody else is expected to use, nine
    tenths of what the largest step leaves. kv_dtype: what the blocks hold, "auto" for the model's
    dtype, or "int8" on a CPU and "fp8" on CUDA, which take half of bfloat16's memory and a quarter
    of float32's. num_threads: compute threads, 0 for one per CPU that the process may use, by its
    affinity and its container's quota. pin_threads: tie those of them that are the extension's own
    to one CPU each, in the order of the process's CPUs. prefix_cache: keep what was computed for
    prompts and answers as long as there is room, for requests that begin alike.
    max_draft_tokens: guesses of the next tokens that a step computes for one sequence, where that
    pays; 0 turns speculation off. tenant_weights: shares of the tenants that have another than 1,
    when they compete for the time that prompts take. packed_cache: where packed weights are kept
    for the next start: "auto" for `user_cache_folder`, "off", or a folder, in which "~" is a user's
    home. packed_cache_bytes: of all that it holds; what was not used for longest goes first.
    """

    max_step_tokens: int | None = None
    max_sequences: int = 256
    max_waiting_requests: int = 1024
    max_waiting_tokens: int = 4 << 20
    max_unread_tokens: int = 512
    kv_memory_bytes: int = 0
    kv_memory_share: float = 0.0
    kv_dtype: str = "auto"
    num_threads: int = 0
    pin_threads: bool = False
    prefix_cache: bool = True
    max_draft_tokens: int = 16
    tenant_weights: dict[str, int] = field(default_factory=dict)
    packed_cache: str = "auto"
    packed_cache_bytes: int = 64 << 30

    def __post_init__(self) -> None:
        if self.max_step_tokens is not None:
            self._check("max_step_tokens", 1, 1 << 20)
        self._check("max_sequences", 1, 1 << 16)
        self._check("max_waiting_requests", 1, 1 << 20)
        self._check("max_waiting_tokens", 1, 1 << 32)
        self._check("max_unread_tokens", 1, 1 << 20)
        self._check("kv_memory_bytes", 0, 1 << 48)
        self._check("num_threads", 0, MAX_THREADS)
        self._check("max_draft_tokens", 0, 64)
        self._check("packed_cache_bytes", 0, 1 << 48)
        share = self.kv_memory_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"engine.kv_memory_share={share}: must be 0 to 1")
        if self.kv_dtype not in KV_DTYPES:
            raise ConfigError(
                f"engine.kv_dtype={self.kv_dtype!r}: must be one of {', '.join(KV_DTYPES)}"
            )
        packed_cache_folder(self.packed_cache, "engine.packed_cache")
        for setting in ("pin_threads", "prefix_cache"):
            value = getattr(self, setting)
            if not isinstance(value, bool):
                raise ConfigError(f"engine.{setting}={value}: must be true or false")
        for tenant, weight in self.tenant_weights.items():
            if not _is_int(weight) or not 1 <= weight <= 100:
                raise ConfigError(f"engine.tenant_weights.{tenant}={weight}: must be 1 to 100")

    def _check(self, setting: str, low: int, high: int) -> None:
        value = getattr(self, setting)
        if not _is_int(value) or not low <= value <= high:
            raise ConfigError(f"engine.{setting}={value}: must be {low} to {high}")

    def step_tokens(self, device_type: str) -> int:
        """`max_step_tokens` on a device, "cpu" or "cuda"."""
        return self.max_step_tokens or _MAX_STEP_TOKENS[device_type]

    @property
    def packed_cache_folder(self) -> Path | None:
        """None where nothing is to be kept, or this user has no folder for it."""
        return packed_cache_folder(self.packed_cache, "engine.packed_cache")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def packed_cache_folder(setting: object, name: str) -> Path | None:
    """What a setting of `EngineConfig.packed_cache` stands for, or a path, which is no word.

    name: of the setting, for ConfigError.
    """
    try:
        if setting == "off":
            return None
        if setting == "auto":
            return user_cache_folder()
        if isinstance(setting, str | Path) and setting != "" and "\0" not in str(setting):
            return Path(setting).expanduser()
    except RuntimeError:  # nobody's home
        pass
    raise ConfigError(f"{name}={setting!r}: must be auto, off or a folder")


def user_cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/phi3svc/packed, by default in ~/.cache (XDG Base Directory Specification)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return None
    return base / "phi3svc" / "packed"
