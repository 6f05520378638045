"""What memory needs from outside."""

from collections.abc import Sequence
from typing import Protocol

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.memory.domain import (
    Agent,
    Budget,
    BudgetState,
    Cursor,
    Ending,
    Grant,
    Message,
    Next,
    Order,
    Page,
    Past,
    Request,
    Resumed,
    Session,
    Turn,
    Whose,
)


class SessionStore(Protocol):
    """Sessions. Another's session is not there. Every method: StoreUnavailable when the store does not answer."""

    async def create(self, principal: Principal, session_id: str, agent: str, request: Request | None) -> Session:
        """Makes a session, or returns the one that the same request made within 24 hours.

        Raises:
            RequestIdReused: the request id came with another digest.
        """

    async def get(self, principal: Principal, session_id: str) -> Session:
        """Raises SessionNotFound."""

    async def page(self, principal: Principal, after: Cursor | None, limit: int) -> Page:
        """The principal's sessions after a place, the latest used first."""

    async def delete(self, principal: Principal, session_id: str) -> None:
        """Forgets a session, its history and its runs. Raises SessionNotFound; SessionBusy: a run has not ended."""

    async def history(self, principal: Principal, session_id: str, max_messages: int) -> Sequence[Message]:
        """The newest messages, oldest first. Raises SessionNotFound."""

    async def begin(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        lease_ms: int,
        max_messages: int,
        order: Order = Order(),  # noqa: B008 - frozen
    ) -> Turn:
        """Takes the session for a new run, keeps what was asked, and reads its newest messages, in one round trip.

        While another run has not ended, or when the order says so, the run is put into the session's line instead; by
        INTERRUPT and ROLLBACK the run that has the session is told to stop.

        Raises:
            SessionNotFound: there is no such session.
            RequestIdReused: the request id came with another digest, or of the same user in another session.
            SessionBusy: another run has not ended, and this one may not wait or has no record to wait with.
            LineFull: as many runs wait as may.
            BudgetExhausted: the session, its user or its tenant may spend nothing now.
        """

    async def resume(
        self, principal: Principal, session_id: str, lease_ms: int, max_messages: int, run: int = 0
    ) -> Resumed:
        """Takes the session for its unfinished run, or for the run of its line that is due next.

        Args:
            principal: Whose session.
            session_id: The session.
            lease_ms: How long it is held.
            max_messages: Of the history.
            run: Only this run; 0: whichever it is.

        Raises:
            SessionNotFound: there is no such session.
            RunNotFound: there is nothing to go on with: all ended, or the run waits for an answer.
            SessionBusy: not now; `retry_after` is when to try again.
        """

    async def extend(self, principal: Principal, session_id: str, run: int, token: int, wanted: Amounts) -> Grant:
        """Sets more apart for a run, as far as there is more. Repeated, it changes nothing.

        Args:
            principal: Whose session.
            session_id: The session.
            run: The run.
            token: From its beginning.
            wanted: By the whole run. Of what it does not say, as much as is configured.

        Returns:
            What the whole run may spend.

        Raises:
            SessionNotFound: there is no such session.
            LeaseLost: the token is not the session's latest.
        """

    async def end(self, principal: Principal, session_id: str, ending: Ending) -> Next | None:
        """Ends a run: its log, its messages and its lease at once. Repeated, it changes nothing.

        Returns:
            The run of the line that is due next.

        Raises:
            SessionNotFound: there is no such session.
            LeaseLost: the token is not the session's latest.
            Aborted: the event does not follow the log's last one.
        """


class ForkStore(Protocol):
    """Sessions that begin where another was. Every method: StoreUnavailable when the store does not answer."""

    async def made(self, principal: Principal, request: Request) -> Session | None:
        """The session that the same request made within 24 hours. None: it made none that is there.

        Raises:
            RequestIdReused: the request id came with another digest.
        """

    async def past(self, principal: Principal, session_id: str) -> Past:
        """What was said in a session. Raises SessionNotFound."""

    async def fork(
        self, principal: Principal, session_id: str, agent: str, messages: Sequence[Message], request: Request | None
    ) -> Session:
        """Makes a session with a history, or returns the one that the same request made within 24 hours.

        It is there whole or not at all, whenever the process dies.

        Raises:
            RequestIdReused: the request id came with another digest.
        """


class AgentStore(Protocol):
    """Agents of a tenant. Every method: StoreUnavailable when the store does not answer."""

    async def put(self, principal: Principal, name: str, digest: bytes, content: bytes) -> Agent:
        """Writes a new revision, unless the latest has this digest. Raises ResourceExhausted: too many agents."""

    async def has(self, principal: Principal, name: str) -> bool:
        """Whether there is such an agent."""

    async def get(self, principal: Principal, name: str, revision: int) -> Agent:
        """One revision, 0 for the latest. Raises AgentNotFound."""

    async def list(self, principal: Principal) -> Sequence[Agent]:
        """The latest revisions, by name."""


class BudgetStore(Protocol):
    """Budgets of a tenant, its users and their sessions. Every method: StoreUnavailable when it does not answer."""

    async def get(self, principal: Principal, whose: Whose) -> BudgetState:
        """Raises SessionNotFound."""

    async def set(self, principal: Principal, whose: Whose, budget: Budget | None) -> BudgetState:
        """Writes a budget, or that there is none. What was spent stays spent. Raises SessionNotFound."""

    async def reserve(
        self,
        principal: Principal,
        reservation: str,
        *,
        strict: bool,
        replaced: str = "",
        wanted: Amounts = NO_AMOUNTS,
    ) -> Grant:
        """Sets apart what a run may spend of the user's and the tenant's budget.

        Args:
            principal: Whose run.
            reservation: Its name, unique for all time.
            strict: A budget of which something limited has nothing left refuses. False: 0 of it is granted.
            replaced: An earlier reservation of the run, which is given back; this one itself, to have another amount.
            wanted: How much. Of what it does not say, as much as is configured.

        Raises:
            BudgetExhausted: `retry_after` is when there is more.
        """

    async def settle(self, principal: Principal, reservation: str, spent: Amounts) -> None:
        """Counts what a run has spent, and gives the rest of its reservation back. Repeated, it changes nothing."""
