"""Sessions in Redis, by the functions of `kit/lua/`, which say who may and when."""

from collections.abc import Sequence
from typing import Any

from services.kit.call import Principal
from services.kit.errors import SessionNotFound
from services.kit.keys import SessionKeys, UserKeys
from services.kit.redis import Redis
from services.memory.codec import parse_message
from services.memory.domain import Cursor, Ending, Lifetimes, Message, Page, Request, Resumed, Session, Turn

_HOUR_MS = 3_600_000
_LOGS_AT_ONCE = 500


class RedisSessionStore:
    """A session, its history and its runs in the tag of the session, their index in the tag of the user."""

    def __init__(self, redis: Redis, lifetimes: Lifetimes) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis
        self._lifetimes = lifetimes
        self._index_ms = lifetimes.session_ms + _HOUR_MS

    async def create(self, principal: Principal, session_id: str, agent: str, request: Request | None) -> Session:
        """As `SessionStore.create`. The index comes first: a session that is made can be found."""
        user = UserKeys(principal)
        keys: tuple[str, ...] = (user.sessions,)
        if request:
            keys += (user.created(request.request_id),)
        digest, request_id = (request.digest, request.request_id) if request else (b"", "")
        added = await self._redis.call(
            "session_add", keys, session_id, digest, self._index_ms, self._lifetimes.request_ms
        )
        session_id = added.decode()
        key = SessionKeys(principal, session_id).session
        found = await self._redis.call(
            "session_create", (key,), _text(principal.user), agent, request_id, self._lifetimes.session_ms
        )
        return _session(session_id, found)

    async def get(self, principal: Principal, session_id: str) -> Session:
        """As `SessionStore.get`."""
        key = SessionKeys(principal, session_id).session
        return _session(session_id, await self._redis.call("session_get", (key,), _text(principal.user)))

    async def page(self, principal: Principal, after: Cursor | None, limit: int) -> Page:
        """As `SessionStore.page`. Takes what is gone out of the index."""
        found: list[tuple[Cursor, Session]] = []
        while len(found) <= limit:
            wanted = limit + 1 - len(found)
            cursors = await self._cursors(principal, after, wanted)
            found += await self._read(principal, cursors)
            if len(cursors) < wanted:
                break
            after = cursors[-1]
        shown = found[:limit]
        return Page([session for _, session in shown], shown[-1][0] if len(found) > limit else None)

    async def delete(self, principal: Principal, session_id: str) -> None:
        """As `SessionStore.delete`. Logs that a crash leaves behind are out of reach, and expire."""
        keys, user = SessionKeys(principal, session_id), UserKeys(principal)
        runs, request_id = await self._redis.call(
            "session_delete",
            (keys.session, keys.lease, keys.history, keys.requests, keys.request_times, keys.work),
            _text(principal.user),
        )
        await self._redis.execute("ZREM", user.sessions, session_id)
        if request_id:
            await self._redis.execute("UNLINK", user.created(request_id.decode()))
        for first in range(1, runs + 1, _LOGS_AT_ONCE):
            logs = (keys.log(run) for run in range(first, min(first + _LOGS_AT_ONCE, runs + 1)))
            await self._redis.execute("UNLINK", *logs)

    async def history(self, principal: Principal, session_id: str, max_messages: int) -> Sequence[Message]:
        """As `SessionStore.history`."""
        keys = SessionKeys(principal, session_id)
        found = await self._redis.call(
            "session_history", (keys.session, keys.history), _text(principal.user), max_messages
        )
        return [parse_message(data) for data in found]

    async def begin(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        lease_ms: int,
        max_messages: int,
        record: bytes = b"",
    ) -> Turn:
        """As `SessionStore.begin`. The index is another tag's, so it has a command of its own, sent along."""
        keys = SessionKeys(principal, session_id)
        begin = self._redis.function(
            "turn_begin",
            (keys.session, keys.lease, keys.history, keys.requests, keys.request_times, keys.work),
            _text(principal.user),
            request.request_id if request else "",
            request.digest if request else b"",
            lease_ms,
            max_messages,
            self._lifetimes.session_ms,
            self._lifetimes.request_ms,
            record,
        )
        touch = self._redis.function("session_touch", (UserKeys(principal).sessions,), session_id, self._index_ms)
        (attached, run, token, agent, history), _ = await self._redis.pipeline([begin, touch])
        return Turn(run, token, bool(attached), agent.decode(), [parse_message(data) for data in history])

    async def resume(self, principal: Principal, session_id: str, lease_ms: int, max_messages: int) -> Resumed:
        """As `SessionStore.resume`."""
        keys = SessionKeys(principal, session_id)
        run, token, agent, record, checkpoint, attempts, history = await self._redis.call(
            "turn_resume",
            (keys.session, keys.lease, keys.history, keys.work),
            _text(principal.user),
            lease_ms,
            max_messages,
        )
        turn = Turn(run, token, False, agent.decode(), [parse_message(data) for data in history])
        return Resumed(turn, record, checkpoint, attempts)

    async def end(self, principal: Principal, session_id: str, ending: Ending) -> None:
        """As `SessionStore.end`."""
        keys = SessionKeys(principal, session_id)
        await self._redis.call(
            "turn_end",
            (keys.session, keys.lease, keys.history, keys.log(ending.run), keys.work),
            _text(principal.user),
            ending.run,
            ending.token,
            ending.first_sequence,
            self._lifetimes.session_ms,
            self._lifetimes.log_ms,
            self._lifetimes.history_cap,
            len(ending.last_events),
            *ending.last_events,
            *(message.data for message in ending.messages),
        )

    async def _cursors(self, principal: Principal, after: Cursor | None, limit: int) -> list[Cursor]:
        """Up to `limit` places of the index after a place; fewer only at its end."""
        start = str(after.used_ms) if after else "+inf"
        found: list[Cursor] = []
        offset = 0
        while len(found) < limit:
            # Places of the same millisecond as `after` come in reverse order of their ids; those passed are skipped.
            span = (start, "-inf", "BYSCORE", "REV", "LIMIT", offset, limit + 1)
            reply = await self._redis.execute("ZRANGE", UserKeys(principal).sessions, *span, "WITHSCORES")
            places = [Cursor(int(float(score)), name.decode()) for name, score in zip(*[iter(reply)] * 2, strict=True)]
            found += [place for place in places if after is None or _is_after(place, after)]
            if len(places) <= limit:
                break
            offset += len(places)
        return found[:limit]

    async def _read(self, principal: Principal, cursors: Sequence[Cursor]) -> list[tuple[Cursor, Session]]:
        user = _text(principal.user)
        replies = await self._redis.replies(
            [
                self._redis.function("session_get", (SessionKeys(principal, cursor.session_id).session,), user)
                for cursor in cursors
            ]
        )
        found: list[tuple[Cursor, Session]] = []
        gone: list[str] = []
        for cursor, reply in zip(cursors, replies, strict=True):
            if isinstance(reply, SessionNotFound):
                gone.append(cursor.session_id)
            elif isinstance(reply, BaseException):
                raise reply
            else:
                found.append((cursor, _session(cursor.session_id, reply)))
        if gone:
            await self._redis.call("session_drop", (UserKeys(principal).sessions,), *gone)
        return found


def _text(user: str) -> bytes:
    return user.encode("utf-8", "surrogatepass")


def _is_after(place: Cursor, other: Cursor) -> bool:
    return (place.used_ms, place.session_id) < (other.used_ms, other.session_id)


def _session(session_id: str, found: Sequence[Any]) -> Session:
    agent, created, updated, runs, expires = found
    return Session(session_id, agent.decode(), int(created), int(updated), int(runs), int(expires))
