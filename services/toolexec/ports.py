"""What the decisions of toolexec need from outside. Each method ends by its own deadline and raises `ServiceError`s."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.kit.call import Principal
from services.toolexec.domain import (
    AgentTools,
    Background,
    BackgroundCall,
    Begun,
    CallbackState,
    CallKey,
    Finished,
    HttpRequest,
    HttpResponse,
    InProgress,
    Outcome,
    State,
    Url,
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
            ToolResponseTooLarge: far more is sent beside the body than heads and chunk sizes take.
            ToolUnavailable: no connection, or it broke before the answer was complete.
        """

    async def check(self, url: Url) -> None:
        """Returns when the host has only public addresses, or is not known just now. Connects to nothing.

        Raises:
            FailedPrecondition: an address of it is not public.
        """


class ResultStore(Protocol):
    """Remembers which calls were made and what came of them. Keys of one principal are never seen by another."""

    async def begin(self, principal: Principal, key: CallKey, running_for: float) -> Begun | Finished | InProgress:
        """Takes the key, unless it is taken. A key taken and never ended is free again after `running_for` seconds."""

    async def begin_approved(
        self, principal: Principal, key: CallKey, approval: str, running_for: float
    ) -> Begun | Finished | InProgress:
        """As `begin`, under an approval, which is used up when the key is taken: it takes it once.

        Raises:
            ApprovalInvalid: it is of another call, was not given, has expired, or was used and nothing is known of what
                came of it.
        """

    async def finish(self, principal: Principal, key: CallKey, ticket: str, outcome: Outcome, keep_for: float) -> None:
        """Keeps the outcome for `keep_for` seconds, unless somebody else has taken the key since."""

    async def abandon(self, principal: Principal, key: CallKey, ticket: str) -> None:
        """Frees the key, unless somebody else has taken it since."""


class Executions(Protocol):
    """Remembers tools in the background. Those of one principal are never seen by another.

    `read`, `take` and `cancel` raise ExecutionNotFound when there is no such execution.
    """

    async def begin(
        self, principal: Principal, key: CallKey, call: BackgroundCall, approval: str, wait_for: float
    ) -> Background:
        """Keeps a call for `wait_for` seconds, unless it is kept already. With an approval, that is used up by it.

        What failed or was stopped is begun anew by an approval that is not used yet: a person has said so.

        Raises:
            RunNotFound: the session is another's, or gone.
            ApprovalInvalid: as `ResultStore.begin_approved`.
        """

    async def stopped(self, running: Sequence[tuple[Principal, CallKey, str]]) -> list[bool]:
        """Of each that a ticket runs, whether it no longer does: it was stopped, or another runs it."""

    async def read(self, principal: Principal, key: CallKey) -> Background:
        """How far it is."""

    async def take(self, principal: Principal, key: CallKey, ticket: str, attempts: int, keep_for: float) -> Background:
        """Makes a ticket the one that runs it, when it is to be run.

        What is begun once only and was begun before, or was begun `attempts` times, fails instead:
        EXECUTION_INTERRUPTED.
        """

    async def release(self, principal: Principal, key: CallKey, ticket: str) -> None:
        """Lets another begin it, if this ticket runs it and it may be begun again. It does not count as begun."""

    async def finish(
        self, principal: Principal, key: CallKey, ticket: str, state: State, outcome: Outcome | None, reason: str,
        keep_for: float,
    ) -> bool:  # fmt: skip
        """Keeps what came of it for `keep_for` seconds. False, and nothing is kept: this ticket does not run it."""

    async def cancel(self, principal: Principal, key: CallKey, keep_for: float) -> Background:
        """Stops it, unless it has ended: EXECUTION_CANCELLED."""


class Runs(Protocol):
    """The runs that wait for tools."""

    async def wake(self, principal: Principal, run_id: str, tool_call_id: str, response: bytes) -> None:
        """Gives a run what it waits for, and lets it go on. Safe to repeat until it has.

        Raises:
            RunNotFound: it is over.
            RunNotWaiting: it does not wait for this call, perhaps not yet.
        """


class Callbacks(Protocol):
    """Remembers what became of callbacks, as long as the log of the run is kept."""

    async def begin(self, principal: Principal, run_id: str) -> tuple[CallbackState, int]:
        """Counts an attempt, unless it was delivered or given up. Returns how far it is, and the number of attempts."""

    async def note(self, principal: Principal, run_id: str, state: CallbackState, reason: str) -> None:
        """Keeps what became of an attempt, unless it was delivered or given up before."""


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time of day, with its zone."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
