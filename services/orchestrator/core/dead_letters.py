"""Runs that were given up, for people to look at and to try again."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from services.kit.call import Principal, work_as
from services.kit.errors import InvalidArgument, ServiceError
from services.kit.run_ids import session_of
from services.orchestrator.domain.run import DeadLetter, Request
from services.orchestrator.ports.store import DeadLetters

log = structlog.get_logger(__name__)

_PAGE = 50
_RETRY_S = 0.25
_REDRIVE_S = 20.0


async def keep(letters: DeadLetters, principal: Principal, letter: DeadLetter, patience_s: float) -> None:
    """Keeps a letter before its run ends, and waits out a store that is away, up to `patience_s` seconds."""
    end = asyncio.get_running_loop().time() + patience_s
    while True:
        try:
            return await letters.put(principal, letter)
        except ServiceError as error:
            if asyncio.get_running_loop().time() > end:
                log.error("dead letter not kept", run_id=letter.run_id, reason=error.reason)
                return
        await asyncio.sleep(_RETRY_S)


class Begin(Protocol):
    """Begins a run: `Runs.begin`."""

    def __call__(self, principal: Principal, request: Request, left: Callable[[str], None]) -> Awaitable[str]:
        """Returns its id; the same for the same request id."""


class DeadLetterBox:
    """The dead letters of whoever's tenant asks."""

    def __init__(self, letters: DeadLetters, begin: Begin) -> None:
        """Reads `letters`; `begin` begins their runs anew."""
        self._letters = letters
        self._begin = begin

    async def page(self, principal: Principal, size: int, token: str) -> tuple[Sequence[DeadLetter], str]:
        """Letters, the newest first, and the token of the next page; empty: there is none.

        Args:
            principal: Who asks.
            size: How many at most. 0: 50.
            token: Of the page. Empty: the first.

        Raises:
            InvalidArgument: no page has this token.
        """
        size = size or _PAGE
        found = await self._letters.page(principal, _read_token(token), size + 1)
        page = found[:size]
        return page, f"{page[-1].time_ms:x}-{_hex(page[-1].run_id)}" if len(found) > size else ""

    async def redrive(self, principal: Principal, run_id: str) -> str:
        """Asks again what a letter's run was asked, on behalf of its user, and forgets the letter. Returns the new run.

        Twice at once, or again after a crash in the middle, it is the same new run.

        Raises:
            DeadLetterNotFound: the tenant has no such letter.
            SessionNotFound: the session is gone; the letter stays.
        """
        letter = await self._letters.get(principal, run_id)
        # In a task of its own: what it does, it does as the run's user.
        begun = await asyncio.create_task(self._again(Principal(principal.tenant, letter.user), letter))
        await self._letters.remove(principal, run_id)
        return begun

    async def _again(self, user: Principal, letter: DeadLetter) -> str:
        record = letter.record
        user = Principal(user.tenant, user.user, frozenset(record.roles))
        work_as(user, name="redrive", timeout=_REDRIVE_S)
        request = Request(
            session_id=session_of(letter.run_id),
            text=record.text,
            request_id=f"redrive-{hashlib.sha256(letter.run_id.encode()).hexdigest()[:40]}",
            queue=record.queue,
            priority=record.priority,
            callback_url=record.callback_url,
        )
        return await self._begin(user, request, lambda run_id: None)


def _hex(text: str) -> str:
    return text.encode().hex()


def _read_token(token: str) -> tuple[int, str] | None:
    if not token:
        return None
    time_ms, dash, run_id = token.partition("-")
    try:
        return int(time_ms, 16), bytes.fromhex(run_id if dash else "-").decode()
    except ValueError:
        problem = {"page_token": "must be the next_page_token of a page"}
        raise InvalidArgument("no such page", fields=problem) from None
