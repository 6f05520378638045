"""Turns: one at a time in a session."""

from collections.abc import Sequence
from dataclasses import replace

from services.kit.call import Principal
from services.memory.core.window import window
from services.memory.domain import Ending, Message, Request, Resumed, Turn
from services.memory.ports import SessionStore

_MAX_MESSAGES = 20
_MAX_TOKENS = 2048


def write_run_id(session_id: str, run: int) -> str:
    """`<session_id>.<n>`: the session of a run is known from its id."""
    return f"{session_id}.{run}"


def read_run_id(run_id: str) -> tuple[str, int]:
    """The session and the number of a run whose id is well-formed."""
    session_id, _, run = run_id.rpartition(".")
    return session_id, int(run)


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
        record: bytes = b"",
    ) -> Turn:
        """Takes the session for a new run and returns what the agent remembers.

        Args:
            principal: Whose session.
            session_id: The session.
            request: Makes the call safe to repeat for 24 hours.
            lease_ms: How long the session is held.
            max_messages: Of the history; 0: 20.
            max_tokens: Of the history; 0: 2048.
            record: What was asked; with it the run can be taken over.

        Raises:
            SessionNotFound: there is no such session.
            RequestIdReused: the request id came with another digest.
            SessionBusy: another run holds the session.
        """
        count = max_messages or _MAX_MESSAGES
        turn = await self._store.begin(principal, session_id, request, lease_ms, count, record)
        return replace(turn, history=window(turn.history, count, max_tokens or _MAX_TOKENS))

    async def resume(
        self, principal: Principal, session_id: str, *, lease_ms: int, max_messages: int, max_tokens: int
    ) -> Resumed:
        """Takes over a run whose owner is gone. Raises SessionNotFound; RunNotFound; SessionBusy."""
        count = max_messages or _MAX_MESSAGES
        resumed = await self._store.resume(principal, session_id, lease_ms, count)
        history = window(resumed.turn.history, count, max_tokens or _MAX_TOKENS)
        return replace(resumed, turn=replace(resumed.turn, history=history))

    async def commit(
        self,
        principal: Principal,
        run_id: str,
        token: int,
        messages: Sequence[Message],
        sequence: int,
        events: Sequence[bytes],
    ) -> None:
        """Ends a turn and keeps its messages. Raises SessionNotFound; LeaseLost; Aborted."""
        session_id, run = read_run_id(run_id)
        await self._store.end(principal, session_id, Ending(run, token, sequence, events, messages))

    async def abandon(
        self, principal: Principal, run_id: str, token: int, sequence: int, events: Sequence[bytes]
    ) -> None:
        """Ends a turn that leaves nothing in the history. Raises SessionNotFound; LeaseLost; Aborted."""
        session_id, run = read_run_id(run_id)
        await self._store.end(principal, session_id, Ending(run, token, sequence, events))
