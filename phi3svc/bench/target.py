"""Where requests go: an engine, or a server over gRPC. Both look the same to the load."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from phi3svc.bench.workload import Workload
from phi3svc.engine.async_engine import EngineClient
from phi3svc.engine.events import Delta, TokenEvent
from phi3svc.engine.request import GenerateRequest, SamplingParams
from phi3svc.errors import ConfigError
from phi3svc.service.client import Client


@dataclass(frozen=True)
class TargetModel:
    """The model under load."""

    name: str
    dtype: str
    vocab_size: int
    max_context_len: int
    num_params: int
    fingerprint: str


class Target(Protocol):
    """Something that answers prompts, greedily."""

    @property
    def model(self) -> TargetModel: ...

    def stream(self, prompt_ids: list[int]) -> AsyncGenerator[int, None]:
        """Yields the number of new tokens (at least 1) of each message; raises Phi3Error."""


class EngineTarget:
    """The engine without the service: no gRPC, no text."""

    def __init__(self, engine: EngineClient, name: str, workload: Workload) -> None:
        """name: of a model, or empty for the only one that generates. Raises ConfigError."""
        able = [m.name for m in engine.models.values() if "generation" in m.tasks]
        info = engine.models[_choose(name, able)]
        self.model = TargetModel(
            info.name,
            info.dtype,
            info.config.vocab_size,
            info.max_context_len,
            info.config.num_params,
            info.fingerprint,
        )
        self._engine = engine
        self._max_new_tokens = workload.max_new_tokens
        self._coalesce_ms = workload.coalesce_ms
        self._stop_token_ids = [] if workload.ignore_eos else sorted(info.config.eos_token_ids)

    async def stream(self, prompt_ids: list[int]) -> AsyncGenerator[int, None]:
        request = GenerateRequest(
            "bench",
            self.model.name,
            prompt_ids,
            SamplingParams(),
            self._max_new_tokens,
            self._stop_token_ids,
            coalesce_ms=self._coalesce_ms,
        )
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, TokenEvent):
                    yield len(event.token_ids)


class GrpcTarget:
    """A whole server."""

    def __init__(self, client: Client, model: TargetModel, workload: Workload) -> None:
        self.model = model
        self._client = client
        self._workload = workload

    @classmethod
    async def connect(cls, client: Client, name: str, workload: Workload) -> GrpcTarget:
        """name: of a model, or empty for the only one that generates. Raises ConfigError."""
        models = {model.name: model for model in await client.list_models()}
        able = [model.name for model in models.values() if "generation" in model.tasks]
        remote = models[_choose(name, able)]
        model = TargetModel(
            remote.name,
            remote.dtype,
            remote.vocab_size,
            remote.max_context_len,
            remote.num_params,
            remote.fingerprint,
        )
        return cls(client, model, workload)

    async def stream(self, prompt_ids: list[int]) -> AsyncGenerator[int, None]:
        # With token ids every new token is in a message, and messages can be counted in tokens.
        events = self._client.generate(
            prompt_ids,
            model=self.model.name,
            temperature=0.0,
            max_new_tokens=self._workload.max_new_tokens,
            ignore_eos=self._workload.ignore_eos,
            wants_token_ids=True,
            coalesce_ms=self._workload.coalesce_ms,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Delta) and event.token_ids:
                    yield len(event.token_ids)


def _choose(name: str, able: Iterable[str]) -> str:
    names = list(able)
    if name in names or (not name and len(names) == 1):
        return name or names[0]
    if not names:
        raise ConfigError("no model here generates; give --model one with a language-model head")
    known = ", ".join(names)
    if name:
        raise ConfigError(f"--name {name}: no such model that generates; known: {known}")
    raise ConfigError(f"--name is needed, one of {known}")
