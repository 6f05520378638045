"""Turns: one at a time in a session."""

from collections.abc import Sequence
from dataclasses import replace

from services.kit import failpoints
from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.failpoints import Point
from services.kit.run_ids import read_run_id
from services.memory.core.window import window
from services.memory.domain import Ending, Grant, Message, Next, Order, Request, Resumed, Turn
from services.memory.ports import SessionStore

_MAX_MESSAGES = 20
_MAX_TOKENS = 2048


class Turns:
    """Turns in the sessions of whoever asks."""

    def __init__(self, store: SessionStore) -> None:
        """Reads and writes `store`."""
        self._store = store

    async def begin(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        *,
        lease_ms: int,
        max_messages: int,
        max_tokens: int,
        order: Order = Order(),  # noqa: B008 - frozen
    ) -> Turn:
        """Takes the session for a new run and returns what the agent remembers, or puts the run into its line.

        Args:
            principal: Whose session.
            session_id: The session.
            request: Makes the call safe to repeat for 24 hours.
            lease_ms: How long the session is held.
            max_messages: Of the history; 0: 20.
            max_tokens: Of the history; 0: 2048.
            order: What was asked, and how the run gets its turn.

        Raises:
            SessionNotFound: there is no such session.
            RequestIdReused: the request id came with another digest, or in another session.
            SessionBusy: another run has not ended, and this one does not wait.
            LineFull: as many runs wait as may.
            BudgetExhausted: the session, its user or its tenant may spend nothing now.
        """
        count = max_messages or _MAX_MESSAGES
        await failpoints.reached(Point.BEFORE_TURN)
        turn = await self._store.begin(principal, session_id, request, lease_ms, count, order)
        await failpoints.reached(Point.AFTER_TURN)
        return replace(turn, history=window(turn.history, count, max_tokens or _MAX_TOKENS))

    async def resume(
        self, principal: Principal, session_id: str, *, lease_ms: int, max_messages: int, max_tokens: int, run: int = 0
    ) -> Resumed:
        """Goes on in a session, with this run or any. Raises SessionNotFound; RunNotFound; SessionBusy."""
        count = max_messages or _MAX_MESSAGES
        resumed = await self._store.resume(principal, session_id, lease_ms, count, run)
        history = window(resumed.turn.history, count, max_tokens or _MAX_TOKENS)
        return replace(resumed, turn=replace(resumed.turn, history=history))

    async def extend(self, principal: Principal, run_id: str, token: int, wanted: Amounts) -> Grant:
        """Sets more apart for a turn. `wanted` and what it returns are for the whole run.

        Raises:
            SessionNotFound, LeaseLost.
        """
        session_id, run = read_run_id(run_id)
        return await self._store.extend(principal, session_id, run, token, wanted)

    async def commit(
        self,
        principal: Principal,
        run_id: str,
        token: int,
        messages: Sequence[Message],
        sequence: int,
        events: Sequence[bytes],
        spent: Amounts = NO_AMOUNTS,
    ) -> Next | None:
        """Ends a turn, keeps its messages, and counts what it spent. Returns which is due next.

        Raises:
            SessionNotFound, LeaseLost, Aborted.
        """
        session_id, run = read_run_id(run_id)
        await failpoints.reached(Point.BEFORE_TURN_END)
        due = await self._store.end(principal, session_id, Ending(run, token, sequence, events, messages, spent))
        await failpoints.reached(Point.AFTER_TURN_END)
        return due

    async def abandon(
        self,
        principal: Principal,
        run_id: str,
        token: int,
        sequence: int,
        events: Sequence[bytes],
        spent: Amounts = NO_AMOUNTS,
    ) -> Next | None:
        """Ends a turn that leaves nothing in the history. Otherwise as commit."""
        return await self.commit(principal, run_id, token, (), sequence, events, spent)
