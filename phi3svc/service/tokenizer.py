"""TokenizerService: the text side of a model, as Generate uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import grpc.aio

from phi3svc.service.catalog import Catalog, ServedModel
from phi3svc.service.convert import read_chat
from phi3svc.service.prompt import render_chat, tokenize_text
from phi3svc.service.validation import Violations
from phi3svc.v1 import tokenizer_service_pb2, tokenizer_service_pb2_grpc

Request = TypeVar("Request")
Response = TypeVar("Response")


class TokenizerServicer(tokenizer_service_pb2_grpc.TokenizerServiceServicer):  # type: ignore[misc]
    """Every method works in `threads`: a megabyte of text must not hold up the event loop."""

    def __init__(self, catalog: Catalog, threads: Executor) -> None:
        self._catalog = catalog
        self._threads = threads

    async def Tokenize(
        self, request: tokenizer_service_pb2.TokenizeRequest, context: grpc.aio.ServicerContext
    ) -> tokenizer_service_pb2.TokenizeResponse:
        return await self._in_thread(self._tokenize, request)

    async def Detokenize(
        self, request: tokenizer_service_pb2.DetokenizeRequest, context: grpc.aio.ServicerContext
    ) -> tokenizer_service_pb2.DetokenizeResponse:
        return await self._in_thread(self._detokenize, request)

    async def RenderChat(
        self, request: tokenizer_service_pb2.RenderChatRequest, context: grpc.aio.ServicerContext
    ) -> tokenizer_service_pb2.RenderChatResponse:
        return await self._in_thread(self._render_chat, request)

    async def _in_thread(self, work: Callable[[Request], Response], request: Request) -> Response:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, request)

    def _tokenize(
        self, request: tokenizer_service_pb2.TokenizeRequest
    ) -> tokenizer_service_pb2.TokenizeResponse:
        violations = Violations()
        model = self._catalog.find(request.model, None, violations)
        violations.text("text", request.text)
        model = _valid(model, violations)
        parse_special = request.parse_special if request.HasField("parse_special") else True
        ids = tokenize_text(model, request.text, parse_special=parse_special)
        return tokenizer_service_pb2.TokenizeResponse(token_ids=ids)

    def _detokenize(
        self, request: tokenizer_service_pb2.DetokenizeRequest
    ) -> tokenizer_service_pb2.DetokenizeResponse:
        violations = Violations()
        model = self._catalog.find(request.model, None, violations)
        if model is not None:
            violations.token_ids("token_ids", request.token_ids, model.info.config.vocab_size)
        model = _valid(model, violations)
        skip_special = request.skip_special if request.HasField("skip_special") else True
        text = model.tokenizer.decode(list(request.token_ids), skip_special=skip_special)
        return tokenizer_service_pb2.DetokenizeResponse(text=text)

    def _render_chat(
        self, request: tokenizer_service_pb2.RenderChatRequest
    ) -> tokenizer_service_pb2.RenderChatResponse:
        violations = Violations()
        model = self._catalog.find(request.model, None, violations)
        turns = read_chat("chat", request.chat, violations)
        model = _valid(model, violations)
        add = request.add_generation_prompt if request.HasField("add_generation_prompt") else True
        prompt, token_ids = render_chat(model, turns, add_generation_prompt=add)
        return tokenizer_service_pb2.RenderChatResponse(prompt=prompt, token_ids=token_ids)


def _valid(model: ServedModel | None, violations: Violations) -> ServedModel:
    violations.raise_if_any()
    assert model is not None  # else there is a violation
    return model
