"""What the decisions of toolexec need from outside. Each method ends by its own deadline and raises `ServiceError`s."""

from datetime import datetime
from typing import Protocol

from services.kit.call import Principal
from services.toolexec.domain import (
    AgentTools,
    Begun,
    CallKey,
    Finished,
    HttpRequest,
    HttpResponse,
    InProgress,
    Outcome,
)


class ToolSource(Protocol):
    """Knows the tools of agents."""

    async def get(self, principal: Principal, agent: str, revision: int) -> AgentTools:
        """The tools of an agent of the principal's tenant; revision 0 is the latest.

        Raises:
            AgentNotFound: no such agent or revision.
        """


class HttpCaller(Protocol):
    """Speaks HTTP."""

    async def call(self, request: HttpRequest) -> HttpResponse:
        """Makes one exchange. Cancelling it closes its connection.

        Raises:
            FailedPrecondition: the address is not public, and must be.
            ToolUnavailable: no connection, or it broke before the answer was complete.
        """


class ResultStore(Protocol):
    """Remembers which calls were made and what came of them. Keys of one principal are never seen by another."""

    async def begin(self, principal: Principal, key: CallKey, running_for: float) -> Begun | Finished | InProgress:
        """Takes the key, unless it is taken. A key taken and never ended is free again after `running_for` seconds."""

    async def finish(self, principal: Principal, key: CallKey, ticket: str, outcome: Outcome, keep_for: float) -> None:
        """Keeps the outcome for `keep_for` seconds, unless somebody else has taken the key since."""

    async def abandon(self, principal: Principal, key: CallKey, ticket: str) -> None:
        """Frees the key, unless somebody else has taken it since."""


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time of day, with its zone."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
