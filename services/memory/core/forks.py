"""Sessions that begin where another was after one of its runs."""

import hashlib
from collections.abc import Sequence

from services.kit.call import Principal
from services.kit.errors import RunNotFound
from services.kit.run_ids import write_run_id
from services.memory.core.sessions import new_session_id
from services.memory.domain import Message, Past, Request, Role, Session
from services.memory.ports import ForkStore

_GONE = "no such run"


class Forks:
    """Copies of the sessions of whoever asks."""

    def __init__(self, store: ForkStore) -> None:
        """Reads and writes `store`."""
        self._store = store

    async def copy(self, principal: Principal, session_id: str, run: int, request_id: str) -> Session:
        """Makes a session with the history another has, or returns the one that the same request made.

        Args:
            principal: Whose sessions.
            session_id: The session that is copied.
            run: Number of the last run whose messages are copied; 0: the latest that has ended.
            request_id: Names the request. Empty: it has no name.

        Raises:
            SessionNotFound: there is no such session.
            RunNotFound: the run has not ended, or its messages are gone.
            RequestIdReused: the request id came with another session or run.
        """
        request = _request(session_id, run, request_id) if request_id else None
        made = await self._store.made(principal, request) if request else None
        if made is not None:
            return made
        past = await self._store.past(principal, session_id)
        return await self._store.fork(principal, new_session_id(), past.agent, up_to(past, run), request)


def _request(session_id: str, run: int, request_id: str) -> Request:
    """Named apart from the requests that make sessions: `:` is in no request id."""
    return Request(f"fork:{request_id}", hashlib.sha256(write_run_id(session_id, run).encode()).digest())


def up_to(past: Past, run: int) -> Sequence[Message]:
    """What had been said when a run had ended.

    Args:
        past: All that was said.
        run: Number of the run; 0: the latest that has ended.

    Raises:
        RunNotFound: it has not ended, or what it wrote is gone.
    """
    if run == 0:
        run = next((number for number in range(past.runs, 0, -1) if number not in past.unfinished), 0)
    if not 0 < run <= past.runs or run in past.unfinished:
        raise RunNotFound(_GONE)
    wrote = [number for number, _ in past.said]
    if run in wrote:
        first = wrote.index(run)
        if first == 0 and past.trimmed and past.said[0][1].role is not Role.USER:
            raise RunNotFound(_GONE)  # a run's first message is its user's
        end = len(wrote) - wrote[::-1].index(run)
    else:
        # It left nothing, or what it left is gone with all that is older.
        before = [place for place, number in enumerate(wrote) if number < run]
        if past.trimmed and not before:
            raise RunNotFound(_GONE)
        end = before[-1] + 1 if before else 0
    return [message for _, message in past.said[:end]]
