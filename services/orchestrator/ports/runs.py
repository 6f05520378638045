"""Where runs are kept, and who works on them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.errors import ServiceError
from services.orchestrator.domain.agent import Message
from services.orchestrator.domain.run import (
    Dropped,
    Grant,
    Next,
    Page,
    Request,
    Responded,
    Resumed,
    Standing,
    Stop,
    Turn,
    Waiting,
)


class Memory(Protocol):
    """Sessions and what was said in them."""

    async def begin_turn(
        self, request: Request, digest: bytes, lease_s: float, record: bytes = b"", wanted: Amounts = NO_AMOUNTS
    ) -> Turn:
        """Takes the session for a run, or puts the run into its line, and keeps the record until the run ends.

        `wanted` is what its first step may need of budgets that limit it.

        Raises:
            SessionNotFound, SessionBusy, LineFull, RequestIdReused.
            BudgetExhausted: nothing is left that the run may spend; `retry_after` is when there is more.
        """

    async def resume_turn(self, session_id: str, lease_s: float, run: int = 0) -> Resumed:
        """Goes on in a session: with its unfinished run, or the one of its line that is due next.

        Args:
            session_id: The session.
            lease_s: How long it is held, seconds.
            run: Only the run with this number. 0: whichever it is.

        Raises:
            SessionNotFound: there is no such session.
            RunNotFound: there is nothing to go on with.
            SessionBusy: not now.
        """

    async def extend_turn(self, turn: Turn, wanted: Amounts) -> Grant:
        """Has more set apart for a run, as far as there is more: for the whole run so much. Safe to repeat.

        Raises:
            LeaseLost: a later turn holds the session.
        """

    async def commit_turn(
        self,
        turn: Turn,
        messages: Sequence[Message],
        last: Sequence[bytes],
        sequence: int,
        spent: Amounts = NO_AMOUNTS,
    ) -> Next | None:
        """Ends a turn: its messages enter the history, `last` ends its log from `sequence` on. Safe to repeat.

        `spent` is what the whole run has, also before it was resumed.

        Returns:
            The run of the session's line that is due next.

        Raises:
            LeaseLost: a later turn holds the session.
        """

    async def abandon_turn(
        self, turn: Turn, last: Sequence[bytes], sequence: int, spent: Amounts = NO_AMOUNTS
    ) -> Next | None:
        """Ends a turn that leaves nothing in the history. Otherwise as `commit_turn`."""

    async def agent_of(self, session_id: str) -> str:
        """Name of the agent the session is with.

        Raises:
            SessionNotFound: there is no such session of the caller.
        """


class RunLog(Protocol):
    """The ordered log of each run, kept beyond the process. Entries are opaque; the codec reads them."""

    async def append(
        self, principal: Principal, turn: Turn, first_sequence: int, entries: Sequence[bytes], checkpoint: bytes = b""
    ) -> Stop:
        """Appends entries, the first with `first_sequence`, keeps a checkpoint with them, and holds the session on.

        Returns:
            How someone asked for the run to stop.

        Raises:
            LeaseLost: a later turn holds the session.
            StoreUnavailable: the store does not answer.
        """

    async def hold(self, runs: Sequence[tuple[Principal, Turn]]) -> list[Stop | ServiceError]:
        """Holds the sessions of many runs on.

        Returns:
            Of each run how someone asked for it to stop; or why its session is not held: LeaseLost when a later turn
            has it.

        Raises:
            StoreUnavailable: the store does not answer at all.
        """

    async def let_go(self, principal: Principal, turn: Turn) -> None:
        """Holds the session of a run no longer: another process may take it over at once, and counts no owner as lost.

        Raises:
            LeaseLost: a later turn holds the session.
            StoreUnavailable: the store does not answer.
        """

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
        """Appends entries and a checkpoint, and lets the run wait: it has the session still, but no process.

        Nothing is set apart for it any more; `spent` is what the whole run has. Budgets hear of it when someone asks
        memory to go on in the session.

        An answer that it was given is kept while it only waits to be gone on with, `again`; else it has been used.

        Returns:
            How someone asked for the run to stop: then it does not wait, and nothing was written.

        Raises:
            LeaseLost: a later turn holds the session.
            StoreUnavailable: the store does not answer.
        """

    async def respond(
        self, principal: Principal, run_id: str, approval: str, verdict: str, response: bytes, *, any_user: bool
    ) -> Responded:
        """Gives a run the answer it waits for. The same answer of the same user again changes nothing.

        Args:
            principal: Who answers.
            run_id: The run.
            approval: SHA-256 of the token, in hexadecimal digits.
            verdict: What the approval becomes: `approved`, `denied`, or `answered` by the client that runs the tool.
            response: The answer.
            any_user: It may be a run of another user of the tenant.

        Returns:
            Whose run it is, and what budgets had left for it when it began to wait; also when the answer is repeated.

        Raises:
            RunNotFound: there is no such run of the caller.
            ApprovalInvalid: the approval is not this run's, was used for another answer, or has expired.
            RunNotWaiting: it does not wait for an answer any more.
        """

    async def announce(self, principal: Principal, run_id: str, entries: Sequence[bytes]) -> bool:
        """Begins the log of a run that stands in the line. False, and nothing changed: the run or its log has begun.

        Raises:
            RunNotFound: the caller has no such run.
        """

    async def drop(
        self, principal: Principal, run_id: str, first_sequence: int, entries: Sequence[bytes]
    ) -> Dropped | None:
        """Ends a run that stands in the line. None: it does not, or no more.

        Raises:
            RunNotFound: the caller has no such run.
        """

    async def undo(self, principal: Principal, run_id: str, request_id: str) -> Dropped | None:
        """Takes a run back that stands in the line: nothing of it is left, and its request begins a new one anywhere.

        None also when its log has begun: then somebody may have been told that it was accepted. Raises as `drop`.
        """

    async def later(self, principal: Principal, session_id: str) -> Sequence[tuple[Next, int]]:
        """Runs of a session's line that are not due yet, and when they are: milliseconds since 1970.

        Raises:
            SessionNotFound: the caller has no such session.
        """

    async def read(self, principal: Principal, run_id: str, after_sequence: int, limit: int) -> Page:
        """Up to `limit` entries after a sequence, in order.

        Raises:
            RunNotFound: the caller has no such run, or its log is gone.
        """

    async def bounds(self, principal: Principal, run_id: str) -> tuple[bytes, bytes, Standing]:
        """The first and the newest entry, and how the run stands.

        Raises:
            RunNotFound: the caller has no such run, or its log is gone or still empty.
        """

    async def request_cancel(self, principal: Principal, run_id: str) -> Standing:
        """Asks whoever owns the run to stop it.

        Returns:
            AT_WORK: its owner was told. OVER: it has ended. WAITING: it was told to stop, and nobody works on it.
            QUEUED: it stands in the line, and was told nothing.

        Raises:
            RunNotFound: the caller has no such run.
        """


class Notices(Protocol):
    """Word of what changes in runs, so that nobody has to look again and again. Word may be lost: look now and then."""

    def start(self, stopped: Callable[[str, str], None]) -> None:
        """Begins to hear. `stopped` is told tenant and id of each run that may have to stop; the store says whether."""

    async def close(self) -> None:
        """Hears nothing any more."""

    def changes(self, principal: Principal, run_id: str, changed: Callable[[], None]) -> AbstractContextManager[None]:
        """Calls `changed` whenever a run's log or standing may have changed.

        Also once when all that follows is heard, since nothing was before.
        """


class Owners(Protocol):
    """Which process works in which sessions, so that others can go on when it is gone."""

    def now(self) -> float:
        """The store's time, seconds since 1970, as the last beat heard it; before the first, this process's own."""

    async def beat(self) -> Sequence[str]:
        """Says that this process lives. Returns those that were not heard of in time."""

    async def hold(self, principal: Principal, session_id: str) -> None:
        """Says that this process works in a session."""

    async def release(self, sessions: Sequence[tuple[Principal, str]]) -> None:
        """Says that it no longer does."""

    async def leave(self) -> None:
        """Says that this process is gone."""

    async def take(self, gone: str) -> Sequence[tuple[Principal, str]]:
        """Makes all sessions of a process that is gone this process's own. Returns them, also those it had already."""

    async def mine(self) -> Sequence[tuple[Principal, str]]:
        """Sessions that are this process's own. Principals come without roles."""
