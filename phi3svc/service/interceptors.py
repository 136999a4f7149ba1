"""Around every RPC of ours: the gate refuses work, errors become statuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Self

import grpc
import grpc.aio

from phi3svc.errors import Unavailable
from phi3svc.service.reader_watch import ReaderWatch
from phi3svc.service.status import status_of

# Health and reflection answer at all times and have statuses of their own.
_OWN_PREFIX = "/phi3svc."

UnaryBehavior = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
StreamBehavior = Callable[[Any, grpc.aio.ServicerContext], AsyncGenerator[Any, None]]


class Gate:
    """Which RPCs are under way, and whether new ones may start. It is shut until opened."""

    def __init__(self) -> None:
        self._refusal: str | None = "the server is starting"
        self._ending: str | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_active(self) -> int:
        return len(self._tasks)

    def open(self) -> None:
        self._refusal = None

    def close(self, refusal: str) -> None:
        """From now on new RPCs are refused with this message; running ones go on."""
        self._refusal = refusal

    async def wait_idle(self) -> None:
        """Returns once no RPC is under way."""
        await self._idle.wait()

    def end_all(self, reason: str) -> None:
        """Ends running RPCs with UNAVAILABLE and this message."""
        self._ending = reason
        for task in self._tasks:
            task.cancel()

    def __enter__(self) -> Self:
        if self._refusal is not None:
            raise Unavailable(self._refusal)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._idle.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        if kind is asyncio.CancelledError and self._ending is not None:
            task.uncancel()
            raise Unavailable(self._ending)


class RpcInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps the handlers of `phi3svc.*` services with the gate and the status mapping."""

    def __init__(self, gate: Gate, slow_reader_timeout_s: float) -> None:
        """slow_reader_timeout_s: a stream whose client takes nothing for so long is ended."""
        self._gate = gate
        self._slow_reader_timeout_s = slow_reader_timeout_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OWN_PREFIX):
            return handler
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behavior = self._streaming(handler.stream_stream or handler.unary_stream)
        else:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            behavior = self._unary(handler.stream_unary or handler.unary_unary)
        return make(behavior, handler.request_deserializer, handler.response_serializer)

    def _unary(self, behavior: UnaryBehavior) -> UnaryBehavior:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                with self._gate:
                    return await behavior(request, context)
            except Exception as error:
                await _abort(context, error)

        return call

    def _streaming(self, behavior: StreamBehavior) -> UnaryBehavior:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> None:
            try:
                # Written here rather than yielded to gRPC, so that a cancelled call closes the
                # generator, and with it the engine's work, at once and not when it is collected.
                with self._gate, ReaderWatch(self._slow_reader_timeout_s) as watch:
                    async with aclosing(behavior(request, context)) as responses:
                        async for response in responses:
                            await watch.write(context, response)
            except Exception as error:
                await _abort(context, error)

        return call


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> None:
    code, message, metadata = status_of(error)
    await context.abort(code, message, metadata)
