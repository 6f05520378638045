"""Replies that are kept, so that a call can be repeated: the port, and it in this process."""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Protocol

from services.kit.call import Principal
from services.kit.errors import RequestIdReused, RequestInProgress

RETRY_S = 1.0
"""Who is told to wait for a call under way is told to wait so long at most."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call that may be repeated.

    Args:
        principal: Who makes it: nobody else ever meets its reply.
        method: Which method, by its bare name.
        request_id: What the caller names it by; not empty.
        digest: SHA-256 of what is asked.
    """

    principal: Principal
    method: str
    request_id: str
    digest: bytes


class Replies(Protocol):
    """Which calls were made, and what was replied. Every method: StoreUnavailable when the store does not answer."""

    async def begin(self, request: Request, ticket: bytes, running_s: float) -> bytes | None:
        """Begins a call, unless it was made before: then its reply.

        Args:
            request: The call.
            ticket: A name for this attempt; two never share one.
            running_s: A call of which nothing more is heard counts as dead after so long, and may be made again.

        Raises:
            RequestIdReused: the request id came before with another digest.
            RequestInProgress: the first call is under way; `retry_after` says when to ask again.
        """

    async def keep(self, request: Request, ticket: bytes, reply: bytes, keep_s: float) -> None:
        """Keeps a reply, unless another attempt has begun the call since."""

    async def forget(self, request: Request, ticket: bytes) -> None:
        """Forgets a call, so that it may be made again, unless another attempt has begun it since."""


def new_ticket() -> bytes:
    """A ticket that nobody else has."""
    return secrets.token_bytes(12)


@dataclass(slots=True)
class _Kept:
    digest: bytes
    ticket: bytes
    reply: bytes | None
    until: float


class InMemoryReplies:
    """`Replies` in this process: for tests and for trying out. They end with it."""

    def __init__(self) -> None:
        """Knows no call."""
        self._kept: dict[tuple[str, str, str, str], _Kept] = {}

    async def begin(self, request: Request, ticket: bytes, running_s: float) -> bytes | None:
        """As `Replies.begin`."""
        now = _now()
        known = self._kept.get(_key(request))
        if known is None or known.until <= now:
            self._kept[_key(request)] = _Kept(request.digest, ticket, None, now + running_s)
            return None
        if known.digest != request.digest:
            raise RequestIdReused("the request id was used before with another body")
        if known.reply is None:
            raise RequestInProgress("the same request is under way", retry_after=min(known.until - now, RETRY_S))
        return known.reply

    async def keep(self, request: Request, ticket: bytes, reply: bytes, keep_s: float) -> None:
        """As `Replies.keep`."""
        known = self._kept.get(_key(request))
        if known is not None and known.ticket == ticket and known.until > _now():
            known.reply, known.until = reply, _now() + keep_s

    async def forget(self, request: Request, ticket: bytes) -> None:
        """As `Replies.forget`."""
        known = self._kept.get(_key(request))
        if known is not None and known.ticket == ticket and known.reply is None:
            del self._kept[_key(request)]


def _key(request: Request) -> tuple[str, str, str, str]:
    return request.principal.tenant, request.principal.user, request.method, request.request_id


def _now() -> float:
    return asyncio.get_running_loop().time()
