"""Dead letters in Redis, as JSON in the tag of their tenant."""

from collections.abc import Sequence

import orjson

from services.kit.call import Principal
from services.kit.errors import DeadLetterNotFound, Internal, by_reason
from services.kit.keys import TenantKeys
from services.kit.redis import Redis
from services.orchestrator.domain.run import DeadLetter, Record

KEPT = 10_000
"""Letters of a tenant."""

KEPT_S = 14 * 86_400
"""How long each is kept."""


class RedisDeadLetters:
    """`ports.DeadLetters` on the functions of `kit/lua/`."""

    def __init__(self, redis: Redis, kept: int = KEPT, kept_s: float = KEPT_S) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis
        self._kept = kept
        self._ttl_ms = int(kept_s * 1000)

    async def put(self, principal: Principal, letter: DeadLetter) -> None:
        """Keeps a letter."""
        keys = TenantKeys(principal).dead_letters
        arguments = (letter.run_id, letter.time_ms, _write(letter), self._kept, self._ttl_ms)
        await self._redis.call("dead_letter_put", keys, *arguments)

    async def get(self, principal: Principal, run_id: str) -> DeadLetter:
        """The letter of a run."""
        found = await self._redis.execute("HGET", TenantKeys(principal).dead_letters[1], run_id)
        if found is None:
            raise DeadLetterNotFound("no such dead letter")
        return _read(found)

    async def page(self, principal: Principal, after: tuple[int, str] | None, limit: int) -> Sequence[DeadLetter]:
        """Letters, the newest first."""
        keys = TenantKeys(principal).dead_letters
        found = await self._redis.call("dead_letter_page", keys, *(after or ("", "")), limit, self._ttl_ms)
        return [_read(each) for each in found]

    async def remove(self, principal: Principal, run_id: str) -> None:
        """Forgets a letter."""
        await self._redis.call("dead_letter_remove", TenantKeys(principal).dead_letters, run_id)


def _write(letter: DeadLetter) -> bytes:
    return orjson.dumps(
        {
            "run_id": letter.run_id,
            "user": letter.user,
            "record": letter.record,
            "attempts": letter.attempts,
            "reason": letter.error.reason,
            "message": letter.error.message,
            "time_ms": letter.time_ms,
        }
    )


def _read(data: bytes) -> DeadLetter:
    found = orjson.loads(data)
    record = Record(**{**found["record"], "roles": tuple(found["record"]["roles"])})
    error = by_reason().get(found["reason"], Internal)(found["message"])
    return DeadLetter(found["run_id"], found["user"], record, found["attempts"], error, found["time_ms"])
