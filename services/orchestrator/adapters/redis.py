"""Run logs in Redis: a stream a run, in the tag of its session."""

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.errors import RunNotFound, ServiceError
from services.kit.keys import SessionKeys, UserKeys
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.kit.run_ids import read_run_id, session_of, write_run_id
from services.kit.users import read_user, user_text
from services.orchestrator.domain.run import Dropped, Next, Page, Responded, Standing, Stop, Turn, Waiting

_TOLD = (Standing.OVER, Standing.AT_WORK, Standing.WAITING, Standing.QUEUED)
"""What `run_cancel` says, by its number."""


class RedisRunLog:
    """`ports.RunLog` on the functions of `kit/lua/`, which memory's turns use too."""

    def __init__(self, redis: Redis, log_ttl_s: float, lease_s: float) -> None:
        """Writes to `redis`; a log is kept `log_ttl_s` seconds, a session held `lease_s` seconds after an append."""
        self._redis = redis
        self._lease_ms = int(lease_s * 1000)
        self._log_ttl_ms = int(log_ttl_s * 1000)

    async def append(
        self, principal: Principal, turn: Turn, first_sequence: int, entries: Sequence[bytes], checkpoint: bytes = b""
    ) -> Stop:
        """Appends entries and holds the session on. Returns how someone asked for the run to stop."""
        return Stop(await self._redis.execute(*self._append(principal, turn, first_sequence, checkpoint, *entries)))

    async def let_go(self, principal: Principal, turn: Turn) -> None:
        """Holds the session no longer."""
        await self._redis.execute(*self._append(principal, turn, 0, b"", lease_ms=-1), kept=False)

    async def hold(self, runs: Sequence[tuple[Principal, Turn]]) -> list[Stop | ServiceError]:
        """Holds the sessions of many runs on, in one round trip."""
        commands = [self._append(principal, turn, 0, b"") for principal, turn in runs]
        return [_held(reply) for reply in await self._redis.replies(commands, kept=False)]

    async def park(
        self,
        principal: Principal,
        turn: Turn,
        first_sequence: int,
        entries: Sequence[bytes],
        checkpoint: bytes,
        waiting: Waiting,
        spent: Amounts = NO_AMOUNTS,
    ) -> Stop:
        """Appends entries and lets the run wait."""
        keys, run = _keys(principal, turn.run_id)
        names = (keys.session, keys.lease, keys.log(run), keys.work, keys.approvals, keys.outbox)
        place = (run, turn.fencing_token, first_sequence, self._log_ttl_ms, checkpoint)
        what = (waiting.what, int(waiting.wait_s * 1000), waiting.wake, waiting.approval, waiting.entry)
        return Stop(await self._redis.call("run_park", names, *place, *what, *(each or 0 for each in spent), *entries))

    async def respond(
        self, principal: Principal, run_id: str, approval: str, verdict: str, response: bytes, *, any_user: bool
    ) -> Responded:
        """Gives a run the answer it waits for."""
        keys, run = _keys(principal, run_id)
        names = (keys.session, keys.work, keys.approvals)
        asks, user = b"" if any_user else user_text(principal.user), user_text(principal.user)
        answer = hashlib.sha256(b"%d:%b%b" % (len(user), user, response)).hexdigest()
        found = await self._redis.call("run_respond", names, asks, run, approval, verdict, response, answer)
        owner, remaining = found
        return Responded(Principal(principal.tenant, read_user(owner)), Amounts(*orjson.loads(remaining or b"[]")))

    async def announce(self, principal: Principal, run_id: str, entries: Sequence[bytes]) -> bool:
        """Begins the log of a run that stands in the line."""
        keys, run = _keys(principal, run_id)
        names = (keys.session, keys.log(run), keys.line)
        place = (user_text(principal.user), run, self._log_ttl_ms)
        return bool(await self._redis.call("run_announce", names, *place, *entries))

    async def drop(
        self, principal: Principal, run_id: str, first_sequence: int, entries: Sequence[bytes]
    ) -> Dropped | None:
        """Ends a run that stands in the line."""
        keys, run = _keys(principal, run_id)
        names = (keys.session, keys.log(run), keys.line, keys.records, keys.work)
        place = (user_text(principal.user), run, self._log_ttl_ms, first_sequence)
        return _dropped(run_id, await self._redis.call("run_drop", names, *place, *entries))

    async def undo(self, principal: Principal, run_id: str, request_id: str) -> Dropped | None:
        """Takes a run that stands in the line back."""
        keys, run = _keys(principal, run_id)
        asked = (keys.requests, keys.request_times)
        names = (keys.session, keys.log(run), keys.line, keys.records, keys.work, *asked, keys.callback(run))
        # The mark that ties the request to this session goes first: the same request, made anew, sets it again.
        begun = UserKeys(principal).begun(request_id) if request_id else ""
        left_ms = (await self._redis.pipeline([("PTTL", begun), ("UNLINK", begun)]))[0] if begun else 0
        undone = _dropped(run_id, await self._redis.call("run_undo", names, user_text(principal.user), run, request_id))
        if undone is None and left_ms > 0:
            await self._redis.execute("SET", begun, session_of(run_id), "NX", "PX", left_ms)
        return undone

    async def later(self, principal: Principal, session_id: str) -> Sequence[tuple[Next, int]]:
        """Runs of the line that are not due yet."""
        keys = SessionKeys(principal, session_id)
        names = (keys.session, keys.line, keys.records)
        found = iter(await self._redis.call("line_later", names, user_text(principal.user)))
        return [
            (Next(write_run_id(session_id, int(run)), record), int(due))
            for run, due, record in zip(*[found] * 3, strict=True)
        ]

    async def read(self, principal: Principal, run_id: str, after_sequence: int, limit: int) -> Page:
        """Entries after a sequence."""
        standing, entries = await self._redis.execute(*self._read(principal, run_id, after_sequence, limit))
        return Page(tuple(entries), Standing(standing.decode()))

    async def bounds(self, principal: Principal, run_id: str) -> tuple[bytes, bytes, Standing]:
        """The first and the newest entry, and how the run stands."""
        keys, run = _keys(principal, run_id)
        (standing, first), newest = await self._redis.pipeline(
            [self._read(principal, run_id, 0, 1), ("XREVRANGE", keys.log(run), "+", "-", "COUNT", 1)]
        )
        if not first or not newest:
            raise RunNotFound("no such run")
        ((_, fields),) = newest
        return first[0], fields[1], Standing(standing.decode())

    async def request_cancel(self, principal: Principal, run_id: str) -> Standing:
        """Asks whoever owns the run to stop it."""
        keys, run = _keys(principal, run_id)
        names = (keys.session, keys.lease, keys.line)
        return _TOLD[await self._redis.call("run_cancel", names, user_text(principal.user), run)]

    def _read(self, principal: Principal, run_id: str, after_sequence: int, limit: int) -> Command:
        keys, run = _keys(principal, run_id)
        names = (keys.session, keys.lease, keys.log(run), keys.work, keys.line)
        return self._redis.function("run_read", names, user_text(principal.user), run, after_sequence, limit)

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


def _held(reply: Any) -> Stop | ServiceError:
    if isinstance(reply, BaseException) and not isinstance(reply, ServiceError):
        raise reply
    return reply if isinstance(reply, ServiceError) else Stop(reply)


def _dropped(run_id: str, reply: Sequence[Any]) -> Dropped | None:
    if not reply:
        return None
    record, due_ms, *due = reply
    return Dropped(record, int(due_ms), Next(write_run_id(session_of(run_id), due[0]), due[1]) if due else None)


def _keys(principal: Principal, run_id: str) -> tuple[SessionKeys, int]:
    session_id, run = read_run_id(run_id)
    return SessionKeys(principal, session_id), run
