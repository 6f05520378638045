"""The sessions of a user by their last turn, in the tag of the user."""

import contextlib
from collections.abc import Sequence
from typing import Any

from services.kit.call import Principal
from services.kit.errors import ServiceError, SessionNotFound
from services.kit.keys import SessionKeys, UserKeys
from services.kit.redis import Redis
from services.kit.users import user_text
from services.memory.domain import Cursor, Lifetimes, Page, Request, Session

_HOUR_MS = 3_600_000


class SessionIndex:
    """Finds sessions. It may name some that are gone, and shows none of those."""

    def __init__(self, redis: Redis, lifetimes: Lifetimes) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis
        self._lifetimes = lifetimes
        self.lifetime_ms = lifetimes.session_ms + _HOUR_MS

    async def add(self, principal: Principal, session_id: str, request: Request | None) -> str:
        """Puts a session into its user's index. Returns its id, or that of the one that the same request made.

        Raises:
            RequestIdReused: the request id came with another digest.
        """
        user = UserKeys(principal)
        keys = (user.sessions, user.created(request.request_id)) if request else (user.sessions,)
        digest = request.digest if request else b""
        arguments = (session_id, digest, self.lifetime_ms, self._lifetimes.request_ms)
        added: bytes = await self._redis.call("session_add", keys, *arguments)
        return added.decode()

    def touching(
        self, principal: Principal, session_id: str, request: Request | None
    ) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
        """Keys and arguments of `session_touch`: the session moves to the front, and a request is of it from now on."""
        user = UserKeys(principal)
        keys = (user.sessions, user.begun(request.request_id)) if request else (user.sessions,)
        return keys, (session_id, self.lifetime_ms, self._lifetimes.request_ms)

    async def free(self, principal: Principal, request: Request) -> None:
        """Says that a request is of no session: it began no run. Not said in time, it stays so for a day."""
        with contextlib.suppress(ServiceError):
            await self._redis.execute("UNLINK", UserKeys(principal).begun(request.request_id))

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
        user = user_text(principal.user)
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
                found.append((cursor, session_of(cursor.session_id, reply)))
        if gone:
            await self._redis.call("session_drop", (UserKeys(principal).sessions,), *gone)
        return found


def _is_after(place: Cursor, other: Cursor) -> bool:
    return (place.used_ms, place.session_id) < (other.used_ms, other.session_id)


def session_of(session_id: str, found: Sequence[Any]) -> Session:
    """A session, from what the functions reply."""
    agent, created, updated, runs, expires = found
    return Session(session_id, agent.decode(), int(created), int(updated), int(runs), int(expires))
