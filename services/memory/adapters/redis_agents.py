"""Agents in Redis, by the functions of `kit/lua/`."""

from collections.abc import Sequence
from typing import Any

from services.kit.call import Principal
from services.kit.errors import AgentNotFound
from services.kit.keys import TenantKeys
from services.kit.redis import Redis
from services.memory.domain import Agent


class RedisAgentStore:
    """Agents in the tag of their tenant."""

    def __init__(self, redis: Redis, *, revisions_kept: int, agents_allowed: int) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis
        self._revisions_kept = revisions_kept
        self._agents_allowed = agents_allowed

    async def put(self, principal: Principal, name: str, digest: bytes, content: bytes) -> Agent:
        """As `AgentStore.put`."""
        keys = TenantKeys(principal)
        revision, created = await self._redis.call(
            "agent_put",
            (keys.agents, keys.agent(name)),
            name,
            digest,
            content,
            self._revisions_kept,
            self._agents_allowed,
        )
        return Agent(name, revision, int(created), content)

    async def has(self, principal: Principal, name: str) -> bool:
        """As `AgentStore.has`."""
        return bool(await self._redis.execute("HEXISTS", TenantKeys(principal).agents, name))

    async def get(self, principal: Principal, name: str, revision: int) -> Agent:
        """As `AgentStore.get`."""
        return _agent(name, await self._redis.call("agent_get", (TenantKeys(principal).agent(name),), revision))

    async def list(self, principal: Principal) -> Sequence[Agent]:
        """As `AgentStore.list`."""
        keys = TenantKeys(principal)
        names = sorted(name.decode() for name in await self._redis.execute("HKEYS", keys.agents))
        replies = await self._redis.replies(
            [self._redis.function("agent_get", (keys.agent(name),), 0) for name in names]
        )
        found = []
        for name, reply in zip(names, replies, strict=True):
            if isinstance(reply, BaseException) and not isinstance(reply, AgentNotFound):
                raise reply
            if not isinstance(reply, BaseException):
                found.append(_agent(name, reply))
        return found


def _agent(name: str, found: Sequence[Any]) -> Agent:
    revision, created, content = found
    return Agent(name, revision, int(created), content)
