"""The heart of the engine: schedule, run, commit, tell."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import uuid

from phi3svc.config.engine import EngineConfig
from phi3svc.engine.blocks import BlockManager
from phi3svc.engine.chunks import Batch, ChunkOutput, Generated
from phi3svc.engine.decode_loop import DecodeRun
from phi3svc.engine.events import EngineEvent, FailedEvent, PromptEvent, ScoresEvent, TokenEvent
from phi3svc.engine.request import GenerateRequest, Request, check_request
from phi3svc.engine.runner import Computed, Runner
from phi3svc.engine.scheduler import Progress, Scheduler
from phi3svc.engine.sequence import Sequence
from phi3svc.errors import DeadlineExceeded, EngineFailed, UnsupportedTask
from phi3svc.model.device import is_lost
from phi3svc.model.kv_cache import KVCache, page_dtype
from phi3svc.model.network import Network
from phi3svc.ops import PAGE_SIZE

logger = logging.getLogger(__name__)

_MAX_QUEUED_S = 5e-3
"""Longer steps are not queued: a prompt that comes in would wait for one more of them, and the time
between two of them hardly counts."""
_MAX_QUEUED_ON_DEVICE_S = 20e-3
"""On a CUDA device, which between two steps that are not queued waits for all that a CPU does."""
_MAX_QUEUED = 32
"""Steps in a row that are queued before the scheduler looks again at who might guess."""


class EngineCore:
    """One model's scheduler and runner, driven from one thread.

    num_blocks: KV blocks of PAGE_SIZE tokens to share among the running sequences.
    """

    def __init__(self, network: Network, config: EngineConfig, num_blocks: int) -> None:
        self._network = network
        self._blocks = BlockManager(num_blocks, PAGE_SIZE)
        self._scheduler = Scheduler(
            config,
            self._blocks,
            network.config.context_len,
            network.config.rope_set,
            device_type=network.device.type,
        )
        kv_dtype = page_dtype(config.kv_dtype, network.dtype, network.device)
        kv = KVCache(network.config, num_blocks, kv_dtype, network.device)
        self._runner = Runner(network, kv)
        self._queued: DecodeRun | None = None
        self._num_queued = 0
        self._step_s = 0.0
        self._ended_s = 0.0

    @property
    def has_work(self) -> bool:
        return self._queued is not None or self._scheduler.has_work

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
        """Give a request no more tokens for now; ignores unknown ones.

        A step under way may still bring some: see `drain`.
        """
        self._scheduler.pause(request_id)

    def resume(self, request_id: str) -> None:
        """Go on with a paused request; ignores others."""
        self._scheduler.resume(request_id)

    def step(self) -> list[EngineEvent]:
        """Compute one batch and say what came of it. Only when `has_work`.

        If the step itself fails, so do the requests of its batch, and no others. While it runs, the
        next one is prepared and queued behind it, if all that it takes is known.
        """
        if self._queued is not None:
            events = self._complete(self._queued.batch, self._queued)
            if events is not None or not self._scheduler.has_work:
                return events or []
        batch = self._scheduler.schedule()
        events = [_expired(sequence) for sequence in batch.expired]
        return events + (self._complete(batch, None) or []) if batch.chunks else events

    def drain(self) -> list[EngineEvent]:
        """Complete the step that is under way, if any, and leave none."""
        if self._queued is None:
            return []
        return self._complete(self._queued.batch, self._queued, is_last=True) or []

    def _complete(
        self, batch: Batch, begun: DecodeRun | None, *, is_last: bool = False
    ) -> list[EngineEvent] | None:
        """Compute a batch, if that is not under way, and say what came of it.

        None if it was queued, but a token before it ended a sequence. is_last: queue none behind.
        """
        self._queued = None
        events: list[EngineEvent] = []
        began_s = time.perf_counter()
        step: DecodeRun | Computed | None = begun
        try:
            following = None if is_last else self._following(batch)
            if step is None:
                step = self._runner.begin(batch, is_followed=following is not None)
            if following is not None:
                self._queued = self._runner.begin_behind(step, following)
            outputs = step.wait()
        except Exception:
            self._queued = None
            incident = _new_incident()
            logger.exception("incident %s: a step failed", incident)
            # What may still be running writes to blocks that are about to be freed.
            with contextlib.suppress(Exception):
                if step is not None:
                    step.wait()
            if is_lost(self._network.device):  # so would every step to come: the process ends
                raise
            for chunk in batch.chunks:
                events += self._fail(chunk.sequence, incident)
            return events
        if outputs is None:
            self._queued = None
            return None
        self._step_s = step.seconds
        for chunk, output in zip(batch.chunks, outputs, strict=True):
            if not _is_finite(output):
                incident = _new_incident()
                logger.error("incident %s: the model's output is not finite", incident)
                events += self._fail(chunk.sequence, incident)
        for progress in self._scheduler.commit(batch, outputs):
            events += events_of(progress)
        # A queued step began when the one before it ended.
        now_s = time.perf_counter()
        self._scheduler.observe(batch, now_s - (began_s if begun is None else self._ended_s))
        self._ended_s = now_s
        return events

    def _following(self, batch: Batch) -> Batch | None:
        """What may be queued behind a batch."""
        self._num_queued += 1
        is_on_device = self._network.backend == "cuda"
        max_step_s = _MAX_QUEUED_ON_DEVICE_S if is_on_device else _MAX_QUEUED_S
        if self._step_s > max_step_s or self._num_queued > _MAX_QUEUED:
            self._num_queued = 0
            return None
        following = self._scheduler.continued(batch)
        if following is None:
            self._num_queued = 0
        return following

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
