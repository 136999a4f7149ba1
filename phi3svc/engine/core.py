"""The heart of the engine: schedule, run, commit, tell."""

from __future__ import annotations

import logging
import math
import uuid

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import Batch, ChunkOutput
from phi3svc.engine.events import EngineEvent, FailedEvent, ScoresEvent, TokenEvent
from phi3svc.engine.request import GenerateRequest, Request, check_request
from phi3svc.engine.runner import Runner
from phi3svc.engine.scheduler import Scheduler
from phi3svc.engine.sequence import SampledToken, Sequence
from phi3svc.errors import DeadlineExceeded, EngineFailed, UnsupportedTask
from phi3svc.model.kv_cache import KVCache
from phi3svc.model.phi3 import Phi3Network
from phi3svc.ops import PAGE_SIZE

logger = logging.getLogger(__name__)


class EngineCore:
    """One model's scheduler and runner, driven from one thread.

    num_blocks: KV blocks of PAGE_SIZE tokens to share among the running sequences.
    """

    def __init__(self, network: Phi3Network, config: EngineConfig, num_blocks: int) -> None:
        self._network = network
        self._blocks = BlockManager(num_blocks, PAGE_SIZE)
        self._scheduler = Scheduler(
            config, self._blocks, network.config.max_position_embeddings, network.config.rope_set
        )
        self._runner = Runner(network, KVCache(network.config, num_blocks, network.dtype))

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    @property
    def context_len(self) -> int:
        """Tokens a prompt and its answer may have together."""
        return self._scheduler.context_len

    @property
    def num_free_blocks(self) -> int:
        return self._blocks.num_free

    def add(self, request: Request) -> None:
        """Queue a request. Raises InvalidRequest, PromptTooLong, UnsupportedTask or Overloaded."""
        config = self._network.config
        if request.task not in self._network.heads:
            raise UnsupportedTask(f"model {request.model!r} has no head for {request.task}")
        check_request(request, config.vocab_size, self.context_len)
        self._scheduler.add(Sequence(request, config.pooled_token_idx(request.prompt_ids)))

    def cancel(self, request_id: str) -> None:
        """Forget a request and free its blocks; unknown ids are ignored."""
        self._scheduler.cancel(request_id)

    def step(self) -> list[EngineEvent]:
        """Compute one batch and say what came of it. Only when `has_work`.

        If the step itself fails, so do the requests of its batch, and no others.
        """
        batch = self._scheduler.schedule()
        failures: list[EngineEvent] = [_expired(sequence) for sequence in batch.expired]
        if not batch.chunks:
            return failures
        try:
            outputs = self._runner.run(batch)
        except Exception:
            incident = _new_incident()
            logger.exception("incident %s: a step failed", incident)
            return failures + [self._fail(chunk.sequence, incident) for chunk in batch.chunks]
        for chunk, output in zip(batch.chunks, outputs, strict=True):
            if not _is_finite(output):
                incident = _new_incident()
                logger.error("incident %s: the model's output is not finite", incident)
                failures.append(self._fail(chunk.sequence, incident))
        self._scheduler.commit(batch, outputs)
        return failures + _events(batch, outputs)

    def _fail(self, sequence: Sequence, incident: str) -> FailedEvent:
        self._scheduler.cancel(sequence.request_id)
        error = EngineFailed(f"internal error, incident {incident}")
        return FailedEvent.from_error(sequence.request_id, error)


def _expired(sequence: Sequence) -> FailedEvent:
    error = DeadlineExceeded(f"{sequence.num_generated} tokens were generated until the deadline")
    return FailedEvent.from_error(sequence.request_id, error)


def _events(batch: Batch, outputs: list[ChunkOutput]) -> list[EngineEvent]:
    events: list[EngineEvent] = []
    for chunk, output in zip(batch.chunks, outputs, strict=True):
        sequence = chunk.sequence
        if output is None or not _is_finite(output):
            continue
        if isinstance(output, SampledToken):
            assert isinstance(sequence.request, GenerateRequest)
            is_edge = sequence.num_generated == 1 or sequence.has_ended
            events.append(
                TokenEvent(
                    sequence.request_id,
                    [output.token_id],
                    [output.logprob] if sequence.request.want_logprobs else [],
                    sequence.finish_reason,
                    sequence.timings() if is_edge else None,
                )
            )
        elif sequence.has_ended:
            events.append(ScoresEvent(sequence.request_id, sequence.scores, sequence.timings()))
    return events


def _is_finite(output: ChunkOutput) -> bool:
    """False for what a broken row gives: the sampler's id -1, or scores with NaN or infinity."""
    if output is None:
        return True
    if isinstance(output, SampledToken):
        return output.token_id >= 0
    return all(math.isfinite(score) for row in output for score in row)


def _new_incident() -> str:
    """Names a failure in the log and in what the client sees."""
    return uuid.uuid4().hex[:12]
