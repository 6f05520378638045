"""Run logs in Redis: a stream a run, in the tag of its session."""

from collections.abc import Sequence
from typing import Any

from services.kit.call import Principal
from services.kit.errors import RunNotFound, ServiceError
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.orchestrator.domain import Page, Turn


class RedisRunLog:
    """`ports.RunLog` on the functions of `kit/lua/`, which memory's turns use too."""

    def __init__(self, redis: Redis, log_ttl_s: float, lease_s: float) -> None:
        """Writes to `redis`; a log is kept `log_ttl_s` seconds, a session held `lease_s` seconds after an append."""
        self._redis = redis
        self._lease_ms = int(lease_s * 1000)
        self._log_ttl_ms = int(log_ttl_s * 1000)

    async def append(
        self, principal: Principal, turn: Turn, first_sequence: int, entries: Sequence[bytes], checkpoint: bytes = b""
    ) -> bool:
        """Appends entries and holds the session on. True: someone asked for the run to stop."""
        return bool(await self._redis.execute(*self._append(principal, turn, first_sequence, checkpoint, *entries)))

    async def let_go(self, principal: Principal, turn: Turn) -> None:
        """Holds the session no longer."""
        await self._redis.execute(*self._append(principal, turn, 0, b"", lease_ms=1))

    async def hold(self, runs: Sequence[tuple[Principal, Turn]]) -> list[bool | ServiceError]:
        """Holds the sessions of many runs on, in one round trip."""
        commands = [self._append(principal, turn, 0, b"") for principal, turn in runs]
        return [_held(reply) for reply in await self._redis.replies(commands)]

    async def read(self, principal: Principal, run_id: str, after_sequence: int, limit: int) -> Page:
        """Entries after a sequence."""
        keys, run = _keys(principal, run_id)
        names = (keys.session, keys.lease, keys.log(run), keys.work)
        over, held, entries = await self._redis.call("run_read", names, principal.user, run, after_sequence, limit)
        return Page(tuple(entries), bool(over), bool(held))

    async def bounds(self, principal: Principal, run_id: str) -> tuple[bytes, bytes, bool]:
        """The first and the newest entry, and whether someone works on the run."""
        keys, run = _keys(principal, run_id)
        names = (keys.session, keys.lease, keys.log(run), keys.work)
        read = self._redis.function("run_read", names, principal.user, run, 0, 1)
        (_, held, first), newest = await self._redis.pipeline(
            [read, ("XREVRANGE", keys.log(run), "+", "-", "COUNT", 1)]
        )
        if not first or not newest:
            raise RunNotFound("no such run")
        ((_, fields),) = newest
        return first[0], fields[1], bool(held)

    async def request_cancel(self, principal: Principal, run_id: str) -> None:
        """Asks whoever owns the run to stop it."""
        keys, run = _keys(principal, run_id)
        await self._redis.call("run_cancel", (keys.session,), principal.user, run)

    def _append(
        self, principal: Principal, turn: Turn, first: int, checkpoint: bytes, *entries: bytes, lease_ms: int = 0
    ) -> Command:
        keys, run = _keys(principal, turn.run_id)
        names = (keys.session, keys.lease, keys.log(run), keys.work)
        arguments = (run, turn.fencing_token, first, self._log_ttl_ms, lease_ms or self._lease_ms, checkpoint)
        return self._redis.function("run_append", names, *arguments, *entries)

    async def check(self) -> None:
        """Returns when the store answers.

        Raises:
            StoreUnavailable: it does not.
        """
        await self._redis.check()

    async def close(self) -> None:
        """Closes its connections."""
        await self._redis.close()


def _held(reply: Any) -> bool | ServiceError:
    if isinstance(reply, BaseException) and not isinstance(reply, ServiceError):
        raise reply
    return reply if isinstance(reply, ServiceError) else bool(reply)


def _keys(principal: Principal, run_id: str) -> tuple[SessionKeys, int]:
    session_id, _, number = run_id.rpartition(".")
    return SessionKeys(principal, session_id), int(number)
