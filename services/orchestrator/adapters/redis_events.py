"""What happens in each tenant, in Redis: one stream a tenant, in its tag."""

from collections.abc import Sequence
from typing import Any

import orjson

from services.kit.call import Principal
from services.kit.keys import TenantKeys
from services.kit.redis import Redis
from services.orchestrator.domain.events import DomainEvent

_KEPT = 10_000
_KEPT_MS = 7 * 86_400_000
_LAST = f"{2**64 - 1}-{2**64 - 1}"
"""The one place after which the server does not look."""


class RedisEvents:
    """`ports.Events` on streams of about the newest 10,000 events, which are gone 7 days after the last."""

    def __init__(self, redis: Redis, *, kept: int = _KEPT, kept_ms: int = _KEPT_MS) -> None:
        """Uses `redis`, which its opener closes. Each tenant waited for takes one of its blocking connections."""
        self._redis = redis
        self._kept = kept
        self._kept_ms = kept_ms

    async def publish(self, events: Sequence[DomainEvent]) -> None:
        """Appends events, in one round trip."""
        tenants: dict[str, list[bytes]] = {}
        for event in events:
            tenants.setdefault(event.tenant, []).append(_write(event))
        if tenants:
            tell, limits = self._redis.function, (self._kept, self._kept_ms)
            await self._redis.pipeline(
                [tell("events_tell", (_key(tenant),), *limits, *told) for tenant, told in tenants.items()]
            )

    async def newest(self, tenant: str) -> str:
        """Cursor of the newest event."""
        found = await self._redis.execute("XREVRANGE", _key(tenant), "+", "-", "COUNT", 1)
        cursor: bytes = found[0][0] if found else b"0-0"
        return cursor.decode()

    async def read(self, tenant: str, after: str, limit: int, wait_s: float = 0.0) -> Sequence[tuple[str, DomainEvent]]:
        """Events after a cursor."""
        key = _key(tenant)
        if not wait_s and after == _LAST:
            return []
        if not wait_s:
            found = await self._redis.execute("XRANGE", key, f"({after}", "+", "COUNT", limit)
        else:
            block = ("BLOCK", max(1, round(wait_s * 1000)), "STREAMS", key, after)
            streams = await self._redis.wait("XREAD", "COUNT", limit, *block, at_most=wait_s)
            found = streams[0][1] if streams else []
        return [(cursor.decode(), _read(tenant, fields[1])) for cursor, fields in found]


def _key(tenant: str) -> str:
    return TenantKeys(Principal(tenant, "")).events


def _write(event: DomainEvent) -> bytes:
    return orjson.dumps(
        (event.id, event.type, event.time_ms, event.user, event.session_id, event.run_id, event.attributes)
    )


def _read(tenant: str, data: bytes) -> DomainEvent:
    fields: list[Any] = orjson.loads(data)
    return DomainEvent(tenant, *fields)
