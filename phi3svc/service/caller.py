"""What a call says besides its request: for whom, and until when."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

import grpc.aio

from phi3svc.engine.request import MAX_SHARER_LEN
from phi3svc.errors import InvalidRequest

TENANT_HEADER = "x-tenant-id"
_TENANT = re.compile(rf"[A-Za-z0-9._:@/-]{{1,{MAX_SHARER_LEN}}}")


@dataclass(frozen=True)
class Caller:
    """tenant: on whose behalf. deadline_s: by this machine's monotonic clock; None without one."""

    tenant: str
    deadline_s: float | None

    @classmethod
    def of(cls, context: grpc.aio.ServicerContext) -> Caller:
        """Raises InvalidRequest for a bad header."""
        left_s = context.time_remaining()
        deadline_s = None if left_s is None else time.monotonic() + left_s
        return cls(tenant_of(context.invocation_metadata()), deadline_s)


def tenant_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """On whose behalf a call is made; empty without a header. Raises InvalidRequest."""
    values = [value for key, value in metadata if key == TENANT_HEADER]
    if not values:
        return ""
    if len(values) > 1:
        raise InvalidRequest.of(TENANT_HEADER, f"given {len(values)} times, must be given once")
    (tenant,) = values
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise InvalidRequest.of(
            TENANT_HEADER, f'must be 1 to {MAX_SHARER_LEN} letters, digits or any of "._:@/-"'
        )
    return tenant
