"""The heart of the engine: schedule, run, commit, tell."""

from __future__ import annotations

import logging
import math
import time
import uuid

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import ChunkOutput, Generated
from phi3svc.engine.events import EngineEvent, FailedEvent, PromptEvent, ScoresEvent, TokenEvent
from phi3svc.engine.request import GenerateRequest, Request, check_request
from phi3svc.engine.runner import Runner
from phi3svc.engine.scheduler import Progress, Scheduler
from phi3svc.engine.sequence import Sequence
from phi3svc.errors import DeadlineExceeded, EngineFailed, UnsupportedTask
from phi3svc.model.kv_cache import KVCache, page_dtype
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
        kv_dtype = page_dtype(config.kv_dtype, network.dtype)
        self._runner = Runner(network, KVCache(network.config, num_blocks, kv_dtype))

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    @property
    def next_deadline_s(self) -> float | None:
        """When there will be work at the latest, by the monotonic clock; None if no one says."""
        return self._scheduler.next_deadline_s

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

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or one of its sequences, and free its blocks; ignores unknown ones."""
        self._scheduler.cancel(request_id, index)

    def pause(self, request_id: str) -> None:
        """Give a request no more tokens for now; ignores unknown ones."""
        self._scheduler.pause(request_id)

    def resume(self, request_id: str) -> None:
        """Go on with a paused request; ignores others."""
        self._scheduler.resume(request_id)

    def step(self) -> list[EngineEvent]:
        """Compute one batch and say what came of it. Only when `has_work`.

        If the step itself fails, so do the requests of its batch, and no others.
        """
        batch = self._scheduler.schedule()
        events: list[EngineEvent] = [_expired(sequence) for sequence in batch.expired]
        if not batch.chunks:
            return events
        started_s = time.perf_counter()
        try:
            outputs = self._runner.run(batch)
        except Exception:
            incident = _new_incident()
            logger.exception("incident %s: a step failed", incident)
            for chunk in batch.chunks:
                events += self._fail(chunk.sequence, incident)
            return events
        self._scheduler.observe(batch, time.perf_counter() - started_s)
        for chunk, output in zip(batch.chunks, outputs, strict=True):
            if not _is_finite(output):
                incident = _new_incident()
                logger.error("incident %s: the model's output is not finite", incident)
                events += self._fail(chunk.sequence, incident)
        for progress in self._scheduler.commit(batch, outputs):
            events += events_of(progress)
        return events

    def _fail(self, sequence: Sequence, incident: str) -> list[FailedEvent]:
        """End a sequence's request; nothing to tell if it has ended already."""
        if sequence.has_ended:
            return []
        self._scheduler.cancel(sequence.request_id)
        error = EngineFailed(f"internal error, incident {incident}")
        return [FailedEvent.from_error(sequence.request_id, error)]


def _expired(sequence: Sequence) -> FailedEvent:
    error = DeadlineExceeded(f"{sequence.num_generated} tokens were generated until the deadline")
    return FailedEvent.from_error(sequence.request_id, error)


def events_of(progress: Progress) -> list[EngineEvent]:
    """What to tell of one sequence's step."""
    sequence, output = progress.sequence, progress.output
    request = sequence.request
    if output is None:
        return [ScoresEvent(sequence.request_id, sequence.scores, sequence.timings())]
    assert isinstance(request, GenerateRequest)
    events: list[EngineEvent] = []
    if output.prompt is not None:
        prompt = output.prompt
        events.append(
            PromptEvent(request.request_id, progress.prompt_start, prompt.logprobs, prompt.top)
        )
    tokens = output.tokens
    if tokens:
        is_edge = sequence.num_generated == len(tokens) or sequence.has_ended
        events.append(
            TokenEvent(
                request.request_id,
                [token.token_id for token in tokens],
                [token.logprob for token in tokens] if request.want_logprobs else [],
                sequence.finish_reason,
                sequence.timings() if is_edge else None,
                sequence.index,
                [token.top for token in tokens if token.top is not None],
            )
        )
    return events


def _is_finite(output: ChunkOutput) -> bool:
    """False for what a broken row gives: the sampler's id -1, or a score or logprob of NaN."""
    match output:
        case None:
            return True
        case Generated():
            prompt = output.prompt.logprobs if output.prompt else ()
            has_token = not output.tokens or output.tokens[-1].token_id >= 0
            # A token that the model thinks impossible has minus infinity, and that is an answer.
            return has_token and not any(math.isnan(logprob) for logprob in prompt)
        case _:
            return all(math.isfinite(score) for row in output for score in row)


def _new_incident() -> str:
    """Names a failure in the log and in what the client sees."""
    return uuid.uuid4().hex[:12]
