"""grpc.health.v1 for the whole server ("") and for each service.

Written here because grpcio's aio servicer keeps one condition per service that the first watcher
to leave deletes under the others, and because it writes to watchers while holding the lock that
`set` needs: a watcher that stops reading would hold up a drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME = "grpc.health.v1.Health"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Starts as NOT_SERVING everywhere; watchers see the latest status, never a stale one."""

    def __init__(self, services: Iterable[str]) -> None:
        self._status: dict[str, int] = dict.fromkeys(("", *services), _NOT_SERVING)
        self._changed = asyncio.Event()

    def set_serving(self, services: Iterable[str] | None = None, *, is_serving: bool) -> None:
        """Sets the overall status and that of `services` (every one when None)."""
        status = _SERVING if is_serving else _NOT_SERVING
        for name in self._status if services is None else ("", *services):
            self._status[name] = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._status:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self._status[request.service])

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        sent = None
        while True:
            changed = self._changed
            status = self._status.get(request.service, _UNKNOWN)
            if status != sent:
                sent = status
                yield health_pb2.HealthCheckResponse(status=status)
            await changed.wait()
