"""GenerationService: from a request to the stream of its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Executor
from contextlib import aclosing, contextmanager

import grpc.aio

from phi3svc.engine.async_engine import EngineClient
from phi3svc.engine.events import (
    Completed,
    Delta,
    Finished,
    PromptLogprobs,
    Started,
    TextEvent,
    TopLogprobs,
)
from phi3svc.engine.request import GenerateRequest
from phi3svc.engine.text_stream import generate_text
from phi3svc.errors import AlreadyExists
from phi3svc.service.caller import Caller
from phi3svc.service.catalog import Catalog
from phi3svc.service.convert import GenerateCall, fit_answer, read_generate
from phi3svc.service.prompt import tokenize_prompt
from phi3svc.v1 import generation_service_pb2, generation_service_pb2_grpc

_REASONS = {
    "stop_token": generation_service_pb2.FINISH_REASON_STOP_TOKEN,
    "stop_string": generation_service_pb2.FINISH_REASON_STOP_STRING,
    "length": generation_service_pb2.FINISH_REASON_LENGTH,
}


class GenerationServicer(
    generation_service_pb2_grpc.GenerationServiceServicer  # type: ignore[misc]
):
    def __init__(self, engine: EngineClient, catalog: Catalog, threads: Executor) -> None:
        self._engine = engine
        self._catalog = catalog
        self._threads = threads
        self._running_ids: set[str] = set()

    async def Generate(
        self,
        request: generation_service_pb2.GenerateRequest,
        context: grpc.aio.ServicerContext,
    ) -> AsyncGenerator[generation_service_pb2.GenerateResponse, None]:
        loop = asyncio.get_running_loop()
        caller = Caller.of(context)
        call, work = await loop.run_in_executor(self._threads, self._prepare, request, caller)
        with self._claim(call.request_id):
            stream = generate_text(
                self._engine,
                work,
                call.model.tokenizer,
                stop_strings=call.stop_strings,
            )
            async with aclosing(stream) as events:
                async for response in _responses(events, call):
                    yield response

    def _prepare(
        self, request: generation_service_pb2.GenerateRequest, caller: Caller
    ) -> tuple[GenerateCall, GenerateRequest]:
        """Runs in a thread: validating and tokenizing a long prompt takes a while."""
        call = read_generate(request, self._catalog)
        prompt_ids = tokenize_prompt(call)
        return call, GenerateRequest(
            request_id=call.request_id,
            model=call.model.info.name,
            prompt_ids=prompt_ids,
            sampling=call.sampling,
            max_new_tokens=fit_answer(call, len(prompt_ids)),
            stop_token_ids=call.stop_token_ids,
            want_logprobs=call.wants_logprobs,
            tenant=caller.tenant,
            cache_salt=call.cache_salt,
            priority=call.priority,
            deadline_s=caller.deadline_s,
            min_new_tokens=call.min_new_tokens,
            n=call.num_sequences,
            num_top_logprobs=call.num_top_logprobs,
            want_prompt_logprobs=call.wants_prompt_logprobs,
            coalesce_ms=call.coalesce_ms,
        )

    @contextmanager
    def _claim(self, request_id: str) -> Iterator[None]:
        """Holds an id while its request runs. Raises AlreadyExists for one that is held."""
        if request_id in self._running_ids:
            raise AlreadyExists(f"request_id {request_id!r} is in use by a running request")
        self._running_ids.add(request_id)
        try:
            yield
        finally:
            self._running_ids.discard(request_id)


async def _responses(
    events: AsyncGenerator[TextEvent, None], call: GenerateCall
) -> AsyncGenerator[generation_service_pb2.GenerateResponse, None]:
    """Numbers the events; those with nothing the caller asked for are left out."""
    seq = 0
    async for event in events:
        if isinstance(event, Delta) and _is_empty(event, call):
            continue
        yield _to_response(seq, event, call)
        seq += 1


def _is_empty(delta: Delta, call: GenerateCall) -> bool:
    wants_more = call.wants_token_ids or call.wants_logprobs or call.num_top_logprobs
    return not (delta.text or wants_more)


def _to_response(
    seq: int, event: TextEvent, call: GenerateCall
) -> generation_service_pb2.GenerateResponse:
    response = generation_service_pb2.GenerateResponse(seq=seq)
    match event:
        case Delta():
            response.delta.index = event.index
            response.delta.text = event.text
            if call.wants_token_ids:
                response.delta.token_ids.extend(event.token_ids)
            if call.wants_logprobs:
                response.delta.logprobs.extend(event.logprobs)
            response.delta.top_logprobs.extend(map(_to_top, event.top))
            # An all-default message must still be the chosen one of the oneof.
            response.delta.SetInParent()
        case Started():
            response.started.request_id = event.request_id
            response.started.model = event.model
            response.started.seed = event.seed
            response.started.prompt_token_count = event.prompt_token_count
            response.started.cached_prompt_token_count = event.cached_prompt_token_count
        case PromptLogprobs():
            response.prompt_logprobs.start = event.start
            response.prompt_logprobs.logprobs.extend(event.logprobs)
            response.prompt_logprobs.top_logprobs.extend(map(_to_top, event.top))
        case Finished():
            response.finished.index = event.index
            response.finished.reason = _REASONS[event.reason]
            response.finished.stop_string = event.stop_string or ""
            response.finished.token_count = event.token_count
            response.finished.digest = event.digest
        case Completed():
            usage, timings = response.completed.usage, response.completed.timings
            usage.prompt_token_count = event.prompt_token_count
            usage.generated_token_count = event.completion_token_count
            usage.drafted_token_count = event.drafted_token_count
            usage.accepted_token_count = event.accepted_token_count
            timings.queue_wait_ms = event.queue_s * 1000
            timings.time_to_first_token_ms = event.first_token_s * 1000
            timings.total_ms = event.total_s * 1000
    return response


def _to_top(top: TopLogprobs) -> generation_service_pb2.TopLogprobs:
    return generation_service_pb2.TopLogprobs(token_ids=top.token_ids, logprobs=top.logprobs)
