"""What memory needs from outside."""

from collections.abc import Sequence
from typing import Protocol

from services.kit.call import Principal
from services.memory.domain import Agent, Cursor, Ending, Message, Page, Request, Resumed, Session, Turn


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
        """Forgets a session, its history and its runs. Raises SessionNotFound; SessionBusy while a turn holds it."""

    async def history(self, principal: Principal, session_id: str, max_messages: int) -> Sequence[Message]:
        """The newest messages, oldest first. Raises SessionNotFound."""

    async def begin(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        lease_ms: int,
        max_messages: int,
        record: bytes = b"",
    ) -> Turn:
        """Takes the session for a new run, keeps what was asked, and reads its newest messages, in one round trip.

        Raises:
            SessionNotFound: there is no such session.
            RequestIdReused: the request id came with another digest.
            SessionBusy: another run holds it, or waits for an owner; `retry_after` is when its lease ends.
        """

    async def resume(self, principal: Principal, session_id: str, lease_ms: int, max_messages: int) -> Resumed:
        """Takes the session for its unfinished run, whose owner is gone.

        Raises:
            SessionNotFound: there is no such session.
            RunNotFound: no run with a record waits for an owner.
            SessionBusy: the run has an owner; `retry_after` is when its lease ends.
        """

    async def end(self, principal: Principal, session_id: str, ending: Ending) -> None:
        """Ends a run: its log, its messages and its lease at once. Repeated, it changes nothing.

        Raises:
            SessionNotFound: there is no such session.
            LeaseLost: the token is not the session's latest.
            Aborted: the event does not follow the log's last one.
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
