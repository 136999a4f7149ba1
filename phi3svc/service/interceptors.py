"""Around every RPC of ours: errors become statuses, and a draining server refuses new work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from phi3svc.errors import Unavailable
from phi3svc.service.status import status_of

# Health and reflection answer while draining and have statuses of their own.
_OWN_PREFIX = "/phi3svc."

UnaryBehavior = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
StreamBehavior = Callable[[Any, grpc.aio.ServicerContext], AsyncIterator[Any]]


class Gate:
    """Counts RPCs under way; once closed, refuses new ones and tells when the last has left."""

    def __init__(self) -> None:
        self._num_active = 0
        self._is_closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_active(self) -> int:
        return self._num_active

    def close(self) -> None:
        self._is_closed = True

    async def wait_idle(self) -> None:
        """Returns once no RPC is under way."""
        await self._idle.wait()

    def __enter__(self) -> None:
        if self._is_closed:
            raise Unavailable("the server is draining; try another replica")
        self._num_active += 1
        self._idle.clear()

    def __exit__(self, *exc_info: object) -> None:
        self._num_active -= 1
        if self._num_active == 0:
            self._idle.set()


class RpcInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps the handlers of `phi3svc.*` services with the gate and the status mapping."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

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
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await _abort(context, error)

        return call

    def _streaming(self, behavior: StreamBehavior) -> UnaryBehavior:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> None:
            try:
                # Written here rather than yielded to gRPC, so that a cancelled call closes the
                # generator, and with it the engine's work, at once and not when it is collected.
                with self._gate:
                    async with aclosing(behavior(request, context)) as responses:
                        async for response in responses:
                            await context.write(response)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await _abort(context, error)

        return call


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> None:
    code, message, metadata = status_of(error)
    await context.abort(code, message, metadata)
