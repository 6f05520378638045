"""What is kept and told of runs beside their logs."""

from collections.abc import Sequence
from typing import Protocol

from services.kit.call import Principal
from services.orchestrator.domain.events import DomainEvent
from services.orchestrator.domain.run import CallbackOutcome, DeadLetter


class CallbackStore(Protocol):
    """Addresses that are told how runs ended, and what became of that."""

    async def expect(self, principal: Principal, run_id: str, url: str) -> None:
        """Keeps the address of a run. The first stays."""

    async def pending(self, principal: Principal, run_id: str) -> str:
        """The address of a run that was not told yet. Empty: there is none."""

    async def outcome(self, principal: Principal, run_id: str) -> CallbackOutcome | None:
        """What became of a run's callback. None: it has none."""


class DeadLetters(Protocol):
    """Runs of a tenant that were given up: at most 10,000, each for 14 days."""

    async def put(self, principal: Principal, letter: DeadLetter) -> None:
        """Keeps a letter, in place of the oldest when there are too many. A second one of the same run changes nothing.

        Args:
            principal: Of the tenant, whoever it is.
            letter: The letter.
        """

    async def get(self, principal: Principal, run_id: str) -> DeadLetter:
        """The letter of a run.

        Raises:
            DeadLetterNotFound: the tenant has none.
        """

    async def page(self, principal: Principal, after: tuple[int, str] | None, limit: int) -> Sequence[DeadLetter]:
        """Letters, the newest first.

        Args:
            principal: Of the tenant.
            after: Time and run of the letter before. None: from the newest on.
            limit: How many at most.
        """

    async def remove(self, principal: Principal, run_id: str) -> None:
        """Forgets a letter. There need not be one."""


class Events(Protocol):
    """What happened in each tenant, in order, for a while. A cursor is the place of an event: `<number>-<number>`."""

    async def publish(self, events: Sequence[DomainEvent]) -> None:
        """Appends events.

        Raises:
            StoreUnavailable: some of them or all may have been appended.
        """

    async def newest(self, tenant: str) -> str:
        """Cursor of the newest event; `0-0` when there is none."""

    async def read(self, tenant: str, after: str, limit: int, wait_s: float = 0.0) -> Sequence[tuple[str, DomainEvent]]:
        """Up to `limit` events after a cursor, in order, each with its own. Waits so long for the first of them."""


class FeedbackStore(Protocol):
    """What users say of their runs."""

    async def put(self, principal: Principal, run_id: str, score: int, text: str, time_ms: int) -> str:
        """Keeps a word on a run as long as its session; it replaces an earlier one. Returns the session's agent.

        Raises:
            RunNotFound: the caller has no such run.
        """


class RunEnds(Protocol):
    """Both ends of the logs of a session's runs, for whoever has to find out how they ended."""

    async def newest(self, principal: Principal, session_id: str) -> int:
        """Number of the run accepted last; 0: there is none, or no such session of the caller."""

    async def ends(
        self, principal: Principal, session_id: str, runs: Sequence[int]
    ) -> Sequence[tuple[int, bytes, bytes]]:
        """Of those runs that have a log: the number, the first entry and the newest, in the order asked for."""
