"""Between the models of a server's settings and those of an engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from phi3svc.config.checkpoint import resolve_source
from phi3svc.config.model import Phi3Config
from phi3svc.config.server import ModelSpec
from phi3svc.engine.async_engine import ModelInfo
from phi3svc.engine.protocol import LoadedModel, ModelSource


def resolve_models(specs: Iterable[ModelSpec]) -> list[ModelSource]:
    """Find every checkpoint, downloading it if need be. Raises ConfigError in one line."""
    return [
        ModelSource(
            spec.name, str(resolve_source(spec.source).path), spec.dtype, spec.device or "cpu"
        )
        for spec in specs
    ]


def describe_models(
    sources: Iterable[ModelSource], loaded: Iterable[LoadedModel]
) -> list[ModelInfo]:
    """Join what the front reads from the checkpoints with what the engine made of them."""
    return [
        ModelInfo(
            name=model.name,
            path=Path(source.path),
            config=Phi3Config.from_dir(Path(source.path)),
            max_context_len=model.context_len,
            dtype=model.dtype,
            fingerprint=model.fingerprint,
            tasks=frozenset(model.tasks),
        )
        for source, model in zip(sources, loaded, strict=True)
    ]
