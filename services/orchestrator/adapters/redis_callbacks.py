"""Callbacks of runs in Redis: the address, and what toolexec writes beside it."""

from services.kit.call import Principal
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.run_ids import read_run_id
from services.orchestrator.domain.run import CallbackOutcome

_KEPT_MS = 40 * 86_400_000
"""A run begins at most 30 days after it was accepted. Once it was told, the outcome lives as long as the run's log."""


class RedisCallbackStore:
    """`ports.CallbackStore` in the session's tag."""

    def __init__(self, redis: Redis) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis

    async def expect(self, principal: Principal, run_id: str, url: str) -> None:
        """Keeps an address."""
        key = _key(principal, run_id)
        await self._redis.call("callback_expect", (key,), url, _KEPT_MS)

    async def pending(self, principal: Principal, run_id: str) -> str:
        """The address that was not told yet."""
        url, state = await self._redis.execute("HMGET", _key(principal, run_id), "url", "state")
        return url.decode() if url and state == b"pending" else ""

    async def outcome(self, principal: Principal, run_id: str) -> CallbackOutcome | None:
        """What became of it."""
        found = await self._redis.execute("HMGET", _key(principal, run_id), "state", "attempts", "reason", "end_ms")
        state, attempts, reason, end_ms = found
        if state is None:
            return None
        return CallbackOutcome(state.decode(), int(attempts or 0), (reason or b"").decode(), int(end_ms or 0))


def _key(principal: Principal, run_id: str) -> str:
    session_id, run = read_run_id(run_id)
    return SessionKeys(principal, session_id).callback(run)
