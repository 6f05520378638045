"""Runs that were given up, for people to look at and to try again."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from services.kit.call import Principal, work_as
from services.kit.errors import DeadLetterNotFound, InvalidArgument, RunNotFound, ServiceError
from services.kit.run_ids import session_of
from services.orchestrator.core.patience import patiently
from services.orchestrator.domain.run import DeadLetter, Request, Standing
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import RunLog
from services.orchestrator.ports.store import DeadLetters

log = structlog.get_logger(__name__)

_PAGE = 50
_REDRIVE_S = 20.0


async def keep(letters: DeadLetters, principal: Principal, letter: DeadLetter, patience_s: float) -> None:
    """Keeps a letter before its run ends, and waits out a store that is away, up to `patience_s` seconds."""
    try:
        await patiently(lambda: letters.put(principal, letter), (ServiceError,), patience_s)
    except ServiceError as error:
        log.error("dead letter not kept", run_id=letter.run_id, reason=error.reason)


async def take_back(letters: DeadLetters, run_log: RunLog, codec: Codec, principal: Principal, run_id: str) -> None:
    """Forgets the letter of a run that ended otherwise after all, in another process."""
    try:
        if await _failed(run_log, codec, principal, run_id) is False:
            await letters.remove(principal, run_id)
    except ServiceError as error:  # who reads the letters looks, too
        log.warning("dead letter not looked after", run_id=run_id, reason=error.reason)


async def _failed(run_log: RunLog, codec: Codec, user: Principal, run_id: str) -> bool | None:
    """Whether a user's run failed. None: it has not ended. Of one whose log is gone its letter is believed."""
    try:
        _, newest, standing = await run_log.bounds(user, run_id)
    except RunNotFound:
        return True
    return codec.is_failed(newest) if standing is Standing.OVER else None


class Begin(Protocol):
    """Begins a run: `Runs.begin`."""

    def __call__(self, principal: Principal, request: Request, left: Callable[[str], None]) -> Awaitable[str]:
        """Returns its id; the same for the same request id."""


class DeadLetterBox:
    """The dead letters of whoever's tenant asks."""

    def __init__(self, letters: DeadLetters, begin: Begin, run_log: RunLog, codec: Codec) -> None:
        """Reads `letters`, and how their runs ended; `begin` begins them anew."""
        self._letters = letters
        self._begin = begin
        self._log, self._codec = run_log, codec

    async def page(self, principal: Principal, size: int, token: str) -> tuple[Sequence[DeadLetter], str]:
        """Letters, the newest first, and the token of the next page; empty: there is none.

        A letter is written before its run ends, and another process may have gone on with the run just then. Those of
        runs that have not failed are left out, so that a page may be short.

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
        failed = await asyncio.gather(*(self._failed(principal, letter) for letter in page))
        shown = [letter for letter, has_failed in zip(page, failed, strict=True) if has_failed]
        return shown, f"{page[-1].time_ms:x}-{_hex(page[-1].run_id)}" if len(found) > size else ""

    async def redrive(self, principal: Principal, run_id: str) -> str:
        """Asks again what a letter's run was asked, on behalf of its user, and forgets the letter. Returns the new run.

        Twice at once, or again after a crash in the middle, it is the same new run.

        Raises:
            DeadLetterNotFound: the tenant has no such letter, or its run did not fail after all; or has not ended yet.
            SessionNotFound: the session is gone; the letter stays.
        """
        letter = await self._letters.get(principal, run_id)
        failed = await self._failed(principal, letter)
        if failed is None:
            raise DeadLetterNotFound("the run has not ended: another process went on with it")
        if not failed:
            await self._letters.remove(principal, run_id)
            raise DeadLetterNotFound("the run did not fail: another process went on with it, and it ended otherwise")
        # In a task of its own: what it does, it does as the run's user.
        begun = await asyncio.create_task(self._again(Principal(principal.tenant, letter.user), letter))
        await self._letters.remove(principal, run_id)
        return begun

    async def _failed(self, principal: Principal, letter: DeadLetter) -> bool | None:
        return await _failed(self._log, self._codec, Principal(principal.tenant, letter.user), letter.run_id)

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
