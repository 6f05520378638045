"""Which process works in which sessions, in Redis."""

import time
import uuid
from collections.abc import Sequence

import orjson

from services.kit.call import Principal
from services.kit.keys import OwnerKeys
from services.kit.redis import Redis

_AT_ONCE = 500
"""Sessions that change hands in one step of the server."""


class RedisOwners:
    """`ports.Owners` on the functions of `kit/lua/`."""

    def __init__(self, redis: Redis, owner_s: float) -> None:
        """A process under a name of its own, that counts as gone `owner_s` seconds after its last beat."""
        self._redis = redis
        self._ttl_ms = int(owner_s * 1000)
        self._me = uuid.uuid4().hex
        self._mine = OwnerKeys.sessions(self._me)
        self._ahead_s = time.time() - time.monotonic()

    def now(self) -> float:
        """The store's time."""
        return time.monotonic() + self._ahead_s

    async def beat(self) -> Sequence[str]:
        """Says that this process lives."""
        now_ms, gone = await self._redis.call("owner_beat", (OwnerKeys.owners,), self._me, self._ttl_ms)
        self._ahead_s = now_ms / 1000 - time.monotonic()
        return [name.decode() for name in gone if name.decode() != self._me]

    async def hold(self, principal: Principal, session_id: str) -> None:
        """Says that this process works in a session."""
        await self._redis.execute("SADD", self._mine, _write(principal, session_id), kept=True)

    async def release(self, sessions: Sequence[tuple[Principal, str]]) -> None:
        """Says that it no longer does."""
        await self._redis.execute("SREM", self._mine, *(_write(*session) for session in sessions))

    async def leave(self) -> None:
        """Says that this process is gone."""
        await self._redis.execute("ZADD", OwnerKeys.owners, 0, self._me)

    async def take(self, gone: str) -> Sequence[tuple[Principal, str]]:
        """Makes all sessions of a process that is gone this process's own."""
        keys = (OwnerKeys.owners, OwnerKeys.sessions(gone), self._mine)
        taken: list[tuple[Principal, str]] = []
        while given := await self._redis.call("owner_take", keys, gone, _AT_ONCE):
            taken += map(_read, given)
        return taken

    async def mine(self) -> Sequence[tuple[Principal, str]]:
        """Sessions that are this process's own."""
        return [_read(data) for data in await self._redis.execute("SMEMBERS", self._mine)]


def _write(principal: Principal, session_id: str) -> bytes:
    return orjson.dumps([principal.tenant, principal.user, session_id])


def _read(data: bytes) -> tuple[Principal, str]:
    tenant, user, session_id = orjson.loads(data)
    return Principal(tenant, user), session_id
