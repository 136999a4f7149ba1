"""The models of one engine: loaded together, served in turn. Driven from one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from phi3svc import ops
from phi3svc.config.checkpoint import fingerprint
from phi3svc.config.engine import EngineConfig
from phi3svc.config.quantization import dtype_of_scheme
from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import EngineEvent, FailedEvent
from phi3svc.engine.memory import free_bytes, share_evenly
from phi3svc.engine.outbox import Outbox
from phi3svc.engine.protocol import LoadedModel, LoadProgress, ModelSource
from phi3svc.engine.request import (
    CancelRequest,
    Control,
    GenerateRequest,
    PauseRequest,
    Request,
    ResumeRequest,
)
from phi3svc.errors import ConfigError, Phi3Error
from phi3svc.model.device import find_device
from phi3svc.model.kv_cache import check_kv_dtype, page_bytes, page_dtype
from phi3svc.model.loader import load_network
from phi3svc.model.network import Network
from phi3svc.model.packed_cache import PackedCache

_PROGRESS_INTERVAL_S = 0.1
_KV_MEMORY_SHARES = {"cpu": 0.5, "cuda": 0.9}


class EngineHost:
    """One EngineCore per model; a step goes to the next model that has work."""

    def __init__(
        self,
        sources: Sequence[ModelSource],
        config: EngineConfig,
        on_progress: Callable[[LoadProgress], None],
    ) -> None:
        """Load every model. Raises ConfigError for a bad checkpoint or too little memory."""
        try:
            ops.isa()
        except ops.Error as error:
            raise ConfigError(str(error)) from None
        ops.set_num_threads(config.num_threads)
        ops.set_pin_threads(config.pin_threads)
        cache = PackedCache.of(config)
        devices = {source.name: find_device(source.device) for source in sources}
        for name, device in devices.items():
            check_kv_dtype(config.kv_dtype, device, name)
        networks = {
            source.name: load_network(
                Path(source.path),
                source.dtype,
                _Progress(source.name, on_progress),
                cache,
                devices[source.name],
            )
            for source in sources
        }
        num_blocks: dict[str, int] = {}
        for device in set(devices.values()):
            of_device = {name: net for name, net in networks.items() if devices[name] == device}
            num_blocks |= split_kv_memory(of_device, config)
        self._cores = {
            name: EngineCore(network, config, num_blocks[name])
            for name, network in networks.items()
        }
        self._turns = list(self._cores.values())
        self._outbox = Outbox()
        self.models = [
            LoadedModel(
                name=source.name,
                context_len=self._cores[source.name].context_len,
                dtype=dtype_of_scheme(networks[source.name].format),
                fingerprint=fingerprint(Path(source.path)),
                tasks=sorted(networks[source.name].heads),
            )
            for source in sources
        ]

    @property
    def has_work(self) -> bool:
        return any(core.has_work for core in self._turns)

    @property
    def idle_s(self) -> float | None:
        """How long to sleep at most when there is no work; None for as long as nothing comes."""
        deadlines = [core.next_deadline_s for core in self._turns]
        first_s = min((s for s in deadlines if s is not None), default=None)
        return None if first_s is None else max(0.0, first_s - time.monotonic())

    def handle(self, message: Request | Control) -> list[EngineEvent]:
        """Take a request in, or do with one as told; what there is to tell at once."""
        match message:
            case CancelRequest():
                for core in self._turns:
                    core.cancel(message.request_id, message.index)
                self._outbox.forget(message.request_id, message.index)
                return []
            case PauseRequest():
                events = []
                for core in self._turns:
                    # What is under way is for the reader to be told before it is left in peace.
                    events += self._outbox.pass_on(core.drain())
                    core.pause(message.request_id)
                # Without work there are no steps, and nothing would become due.
                return events + self._outbox.release(message.request_id)
            case ResumeRequest():
                for core in self._turns:
                    core.resume(message.request_id)
                return []
        try:
            self._cores[message.model].add(message)
        except Phi3Error as error:
            # What is refused is an event of its own.
            return [FailedEvent.from_error(message.request_id, error)]
        if isinstance(message, GenerateRequest):
            self._outbox.add(message)
        return []

    def step(self) -> list[EngineEvent]:
        """One step of the model whose turn it is. Only when `has_work`."""
        core = next(core for core in self._turns if core.has_work)
        self._turns.remove(core)
        self._turns.append(core)
        return self._outbox.pass_on(core.step())


def split_kv_memory(networks: dict[str, Network], config: EngineConfig) -> dict[str, int]:
    """KV blocks for each of the models on one device. Raises ConfigError if one gets none.

    Memory is split evenly, except that no model gets more than `max_sequences` of its longest
    sequences can fill.
    """
    device = next(iter(networks.values())).device
    available = free_bytes(device)
    which = "that are free"
    if device.type == "cuda":
        # On a CPU what a step needs comes out of the other half.
        num_tokens, num_sequences = config.step_tokens(device.type), config.max_sequences
        step_bytes = sum(
            network.workspace_bytes(num_tokens, num_sequences) for network in networks.values()
        )
        settings = f"engine.max_step_tokens={num_tokens}, engine.max_sequences={num_sequences}"
        if step_bytes >= available:
            raise ConfigError(
                f"{settings}: must be less: a step takes {step_bytes} bytes, and {device} has"
                f" {available} free"
            )
        available -= step_bytes
        which = f"of {device} that {step_bytes} for a step ({settings}) leave"
    share_of_free = config.kv_memory_share or _KV_MEMORY_SHARES[device.type]
    if config.kv_memory_bytes > available:
        raise ConfigError(
            f"engine.kv_memory_bytes={config.kv_memory_bytes}: must be at most {available}, the"
            f" bytes {which}, or 0 for {share_of_free:.0%} of them"
        )
    total = config.kv_memory_bytes or int(available * share_of_free)
    block_bytes = {}
    needs = []
    for name, network in networks.items():
        dtype = page_dtype(config.kv_dtype, network.dtype, device)
        block_bytes[name] = page_bytes(network.config, dtype)
        num_blocks_per_sequence = -(-network.config.context_len // ops.PAGE_SIZE)
        needs.append(config.max_sequences * num_blocks_per_sequence * block_bytes[name])
    num_blocks = {}
    for (name, bytes_), share in zip(block_bytes.items(), share_evenly(total, needs), strict=True):
        num_blocks[name] = share // bytes_
        if num_blocks[name] == 0:
            raise ConfigError(
                f"engine.kv_memory_bytes={config.kv_memory_bytes}: model {name!r} gets"
                f" {share} bytes and needs {bytes_} for every {ops.PAGE_SIZE} tokens"
            )
    return num_blocks


class _Progress:
    """Passes on a model's loading progress, though not more often than anyone can see."""

    def __init__(self, model: str, on_progress: Callable[[LoadProgress], None]) -> None:
        self._model = model
        self._on_progress = on_progress
        self._last_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done == total or now_s - self._last_s >= _PROGRESS_INTERVAL_S:
            self._last_s = now_s
            self._on_progress(LoadProgress(self._model, done, total))
