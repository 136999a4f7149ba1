"""What a call says about its caller besides the request: the headers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from phi3svc.engine.request import MAX_SHARER_LEN
from phi3svc.errors import InvalidRequest

TENANT_HEADER = "x-tenant-id"
_TENANT = re.compile(rf"[A-Za-z0-9._:@/-]{{1,{MAX_SHARER_LEN}}}")


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
