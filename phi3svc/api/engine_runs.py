"""Runs requests on an engine of a network's own, in the caller's thread."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Sequence

from phi3svc.api.memory import require_bytes
from phi3svc.config.engine import EngineConfig
from phi3svc.engine.core import EngineCore
from phi3svc.engine.events import FailedEvent, TokenEvent
from phi3svc.engine.memory import free_bytes
from phi3svc.engine.request import GenerateRequest, check_request
from phi3svc.model.kv_cache import page_bytes
from phi3svc.model.network import Network
from phi3svc.ops import PAGE_SIZE

Answers = list[list[int]]
"""Tokens of each of a request's answers."""

# What a server bounds lest strangers fill its memory; here the caller holds all of it already.
_CONFIG = EngineConfig(max_waiting_requests=1 << 20, max_waiting_tokens=1 << 32)


class EngineRuns:
    """One engine, kept between runs with its prefix cache, and replaced when a run needs a larger.

    Not for two threads at once: see `turns`.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._core: EngineCore | None = None
        self._num_blocks = 0

    def run(
        self,
        requests: Sequence[GenerateRequest],
        on_token: Callable[[int, int, Sequence[int]], bool] | None = None,
        is_time_up: Callable[[], bool] = lambda: False,
    ) -> list[Answers]:
        """All answers to all requests, which have distinct ids.

        on_token: told of every new token, by the request's place, the answer's index, and the
        answer so far; true ends that answer with it. is_time_up: asked after every step; true ends
        all answers. Raises InvalidRequest if a request does not fit the model or the memory, and
        what the engine raises; no request stays behind.
        """
        config = self._network.config
        for request in requests:
            check_request(request, config.vocab_size, config.context_len)
        core = self._core_for(requests)
        try:
            return self._run(core, requests, on_token, is_time_up)
        except BaseException:
            self._core = None  # whatever it was in the middle of
            raise
        finally:
            for request in requests:
                core.cancel(request.request_id)
            # A step that is queued still writes to the cache.
            with contextlib.suppress(Exception):
                core.drain()

    def _run(
        self,
        core: EngineCore,
        requests: Sequence[GenerateRequest],
        on_token: Callable[[int, int, Sequence[int]], bool] | None,
        is_time_up: Callable[[], bool],
    ) -> list[Answers]:
        for request in requests:
            core.add(request)
        places = {request.request_id: place for place, request in enumerate(requests)}
        answers: list[Answers] = [[[] for _ in range(request.n)] for request in requests]
        ended: set[tuple[int, int]] = set()
        while core.has_work:
            for event in core.step():
                if isinstance(event, FailedEvent):
                    raise event.to_error()
                assert isinstance(event, TokenEvent)
                place, index = places[event.request_id], event.index
                answer = answers[place][index]
                for token_id in event.token_ids:
                    if (place, index) in ended:
                        break
                    answer.append(token_id)
                    if on_token is not None and on_token(place, index, answer):
                        ended.add((place, index))
                        core.cancel(event.request_id, index)
            if is_time_up():
                break
        return answers

    def _core_for(self, requests: Sequence[GenerateRequest]) -> EngineCore:
        """The engine, with room for the longest answer and, if memory allows, for all at once."""
        context_len = self._network.config.context_len
        needs: list[int] = []
        for request in requests:
            length = min(len(request.prompt_ids) + request.max_new_tokens, context_len)
            needs += [-(-length // PAGE_SIZE) + 1] * request.n
        wanted = sum(heapq.nlargest(_CONFIG.max_sequences, needs))
        if self._core is not None and wanted <= self._num_blocks:
            return self._core
        self._core = None  # first, so that its memory counts as free
        num_blocks = self._num_blocks_for(wanted, max(needs))
        self._core = EngineCore(self._network, _CONFIG, num_blocks)
        self._num_blocks = num_blocks
        return self._core

    def _num_blocks_for(self, wanted: int, longest: int) -> int:
        block_bytes = page_bytes(self._network.config, self._network.dtype)
        what = f"the keys and values of {longest * PAGE_SIZE} tokens"
        require_bytes("max_new_tokens", longest * block_bytes, what, self._network.device)
        # A power of two, so that a conversation that grows seldom outgrows it; on a CPU what is not
        # written to takes no memory.
        generous = 1 << (wanted - 1).bit_length()
        return max(longest, min(generous, free_bytes(self._network.device) // 2 // block_bytes))
