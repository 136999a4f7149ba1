"""ClassificationService: labels for texts, and for the tokens and entities in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import grpc.aio

from phi3svc.engine.async_engine import EngineClient
from phi3svc.engine.request import ClassifyRequest
from phi3svc.errors import FieldViolation, InvalidRequest, PromptTooLong
from phi3svc.service.caller import Caller
from phi3svc.service.catalog import Catalog
from phi3svc.service.convert import ClassifyCall, read_classify
from phi3svc.service.labels import to_classification, to_token_classification
from phi3svc.text.entities import score_tokens
from phi3svc.text.tokenizer import Span
from phi3svc.v1 import classification_service_pb2, classification_service_pb2_grpc

# Of one request in the engine at a time: keeps its batches full and leaves room for others.
MAX_PARALLEL_TEXTS = 32

Result = TypeVar("Result")
Request = (
    classification_service_pb2.ClassifyRequest | classification_service_pb2.ClassifyTokensRequest
)
Scores = list[list[float]]
# Token ids of a text, and where in it each comes from.
Tokens = tuple[list[int], list[Span | None]]


class ClassificationServicer(
    classification_service_pb2_grpc.ClassificationServiceServicer  # type: ignore[misc]
):
    """Tokenizing, and turning scores into labels, happen in `threads`."""

    def __init__(self, engine: EngineClient, catalog: Catalog, threads: Executor) -> None:
        self._engine = engine
        self._catalog = catalog
        self._threads = threads

    async def Classify(
        self,
        request: classification_service_pb2.ClassifyRequest,
        context: grpc.aio.ServicerContext,
    ) -> classification_service_pb2.ClassifyResponse:
        caller = Caller.of(context)
        call, texts = await self._in_thread(self._prepare, request, "sequence-classification")
        scores = await self._score(call, texts, caller, per_token=False)
        return await self._in_thread(_label_texts, call, scores)

    async def ClassifyTokens(
        self,
        request: classification_service_pb2.ClassifyTokensRequest,
        context: grpc.aio.ServicerContext,
    ) -> classification_service_pb2.ClassifyTokensResponse:
        caller = Caller.of(context)
        call, texts = await self._in_thread(self._prepare, request, "token-classification")
        scores = await self._score(call, texts, caller, per_token=True)
        return await self._in_thread(_label_tokens, call, texts, scores)

    async def _in_thread(self, work: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def _prepare(self, request: Request, task: str) -> tuple[ClassifyCall, list[Tokens]]:
        call = read_classify(request, self._catalog, task)
        texts = [call.model.tokenizer.encode_with_offsets(text) for text in call.texts]
        _check_lengths([len(ids) for ids, _ in texts], call.model.info.max_context_len)
        return call, texts

    async def _score(
        self, call: ClassifyCall, texts: Sequence[Tokens], caller: Caller, *, per_token: bool
    ) -> list[Scores]:
        """Raw scores of each text; the first that fails ends the others."""
        free = asyncio.Semaphore(MAX_PARALLEL_TEXTS)

        async def score(ids: list[int]) -> Scores:
            async with free:
                model = call.model.info.name
                request = ClassifyRequest(
                    call.request_id,
                    model,
                    ids,
                    per_token,
                    tenant=caller.tenant,
                    deadline_s=caller.deadline_s,
                )
                return (await self._engine.classify(request)).scores

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(score(ids)) for ids, _ in texts]
        except* Exception as failures:
            error = failures.exceptions[0]
        else:
            return [task.result() for task in tasks]
        raise error


def _check_lengths(lengths: Sequence[int], max_context_len: int) -> None:
    """Raises InvalidRequest for texts without a token, PromptTooLong for those with too many."""
    empty = [
        FieldViolation(f"texts[{i}]", "no tokens, must come to at least one")
        for i, length in enumerate(lengths)
        if not length
    ]
    if empty:
        raise InvalidRequest(*empty)
    too_long = [
        FieldViolation(
            f"texts[{i}]", f"{length} tokens, the model's context holds {max_context_len}"
        )
        for i, length in enumerate(lengths)
        if length > max_context_len
    ]
    if too_long:
        sizes = {
            "prompt_token_count": max(lengths),
            "max_context_token_count": max_context_len,
        }
        raise PromptTooLong(*too_long, sizes=sizes)


def _label_texts(
    call: ClassifyCall, scores: Sequence[Scores]
) -> classification_service_pb2.ClassifyResponse:
    config = call.model.info.config
    return classification_service_pb2.ClassifyResponse(
        results=[to_classification(rows[0], config) for rows in scores]
    )


def _label_tokens(
    call: ClassifyCall, texts: Sequence[Tokens], scores: Sequence[Scores]
) -> classification_service_pb2.ClassifyTokensResponse:
    config = call.model.info.config
    return classification_service_pb2.ClassifyTokensResponse(
        results=[
            to_token_classification(
                score_tokens(text, ids, spans, rows, call.model.tokenizer.unk_token_id),
                text,
                config,
                call.aggregation_strategy,
            )
            for text, (ids, spans), rows in zip(call.texts, texts, scores, strict=True)
        ]
    )
