"""Sessions: made, read, listed, deleted."""

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Sequence

from services.kit.call import Principal
from services.kit.errors import AgentNotFound, InvalidArgument
from services.memory.domain import Cursor, Message, Request, Session
from services.memory.ports import AgentStore, SessionStore

_PAGE = 50
_HISTORY = 20
_HISTORY_BYTES = 8 * 1024 * 1024
"""A reply may have 16 MiB."""
_RANDOM_BYTES = 12
_TIME_BYTES = 6


def new_session_id() -> str:
    """29 characters of `0-9a-v`: 48 bits of time in milliseconds, so that ids sort by it, and 96 random bits."""
    now_ms = time.time_ns() // 1_000_000
    raw = now_ms.to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(_RANDOM_BYTES)
    return base64.b32hexencode(raw).decode().rstrip("=").lower()


def write_page_token(cursor: Cursor | None) -> str:
    """A place in a list as text that says nothing to the caller. No place: empty."""
    if cursor is None:
        return ""
    return base64.urlsafe_b64encode(f"{cursor.used_ms}:{cursor.session_id}".encode()).decode()


def read_page_token(token: str) -> Cursor | None:
    """What `write_page_token` wrote.

    Raises:
        InvalidArgument: it did not write this.
    """
    if not token:
        return None
    try:
        used, colon, session_id = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        used, colon, session_id = "", "", ""
    if not (colon and session_id and used.isdecimal()):
        raise InvalidArgument("no such page", fields={"page_token": "must be the next_page_token of a page"})
    return Cursor(int(used), session_id)


class Sessions:
    """The sessions of whoever asks."""

    def __init__(self, store: SessionStore, agents: AgentStore) -> None:
        """Reads and writes `store`; sessions are with agents that `agents` has."""
        self._store = store
        self._agents = agents

    async def create(self, principal: Principal, agent: str, request_id: str) -> Session:
        """Makes a session with an agent, or returns the one that the same request made.

        Raises:
            AgentNotFound: the tenant has no such agent.
            RequestIdReused: the request id came with another agent.
        """
        if not await self._agents.has(principal, agent):
            raise AgentNotFound("no such agent")
        request = Request(request_id, hashlib.sha256(agent.encode()).digest()) if request_id else None
        return await self._store.create(principal, new_session_id(), agent, request)

    async def get(self, principal: Principal, session_id: str) -> Session:
        """Raises SessionNotFound."""
        return await self._store.get(principal, session_id)

    async def page(self, principal: Principal, page_size: int, page_token: str) -> tuple[Sequence[Session], str]:
        """A page of sessions, the latest used first, and the token of the next.

        Args:
            principal: Whose sessions.
            page_size: How many; 0: 50.
            page_token: Token of the page; empty: the first.

        Raises:
            InvalidArgument: there is no such page token.
        """
        page = await self._store.page(principal, read_page_token(page_token), page_size or _PAGE)
        return page.sessions, write_page_token(page.next)

    async def delete(self, principal: Principal, session_id: str) -> None:
        """Raises SessionNotFound; SessionBusy."""
        await self._store.delete(principal, session_id)

    async def history(self, principal: Principal, session_id: str, max_messages: int) -> Sequence[Message]:
        """The newest messages, 20 when `max_messages` is 0, at most 8 MiB of them. Raises SessionNotFound."""
        found = await self._store.history(principal, session_id, max_messages or _HISTORY)
        start, size = len(found), 0
        while start > 0 and size + len(found[start - 1].data) <= _HISTORY_BYTES:
            start -= 1
            size += len(found[start].data)
        return found[start:]
