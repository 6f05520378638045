"""Events, feedback and ends of logs in this process: for tests and for trying things out. They end with it."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence

from services.kit.call import Principal
from services.kit.errors import RunNotFound
from services.orchestrator.domain.events import DomainEvent

_STEP_S = 0.005


class InMemoryEvents:
    """`ports.Events` over one list a tenant.

    Attributes:
        error: What every call fails with. None: they do not fail.
        reads: How often it was read.
    """

    def __init__(self, kept: int = 10_000) -> None:
        """Keeps the newest `kept` events of a tenant."""
        self._kept = kept
        self._numbers = itertools.count(1)
        self._told: defaultdict[str, list[tuple[int, DomainEvent]]] = defaultdict(list)
        self.error: Exception | None = None
        self.reads = 0

    async def publish(self, events: Sequence[DomainEvent]) -> None:
        """Appends events."""
        self._fail()
        for event in events:
            told = self._told[event.tenant]
            told.append((next(self._numbers), event))
            del told[: -self._kept]

    async def newest(self, tenant: str) -> str:
        """Cursor of the newest event."""
        self._fail()
        return f"{self._told[tenant][-1][0] if self._told[tenant] else 0}-0"

    async def read(self, tenant: str, after: str, limit: int, wait_s: float = 0.0) -> Sequence[tuple[str, DomainEvent]]:
        """Events after a cursor."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        first, _, second = after.partition("-")
        self.reads += 1
        while True:
            self._fail()
            place = (int(first), int(second or 0))
            found = [(f"{number}-0", event) for number, event in self._told[tenant] if (number, 0) > place]
            if found or loop.time() >= until:
                return found[:limit]
            await asyncio.sleep(_STEP_S)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class InMemoryFeedbackStore:
    """`ports.FeedbackStore` over one dictionary: `kept` has score, text and time by tenant and run."""

    def __init__(self) -> None:
        """Knows no run."""
        self._runs: dict[tuple[str, str], tuple[str, str]] = {}
        self.kept: dict[tuple[str, str], tuple[int, str, int]] = {}

    def add_run(self, owner: Principal, run_id: str, agent: str) -> None:
        """Makes a run that can be spoken of."""
        self._runs[owner.tenant, run_id] = (owner.user, agent)

    async def put(self, principal: Principal, run_id: str, score: int, text: str, time_ms: int) -> str:
        """Keeps a word on a run."""
        user, agent = self._runs.get((principal.tenant, run_id), ("", ""))
        if user != principal.user:
            raise RunNotFound("no such run")
        self.kept[principal.tenant, run_id] = (score, text, time_ms)
        return agent


class InMemoryRunEnds:
    """`ports.RunEnds` over one dictionary: `logs` has the entries of each run by tenant, user and session."""

    def __init__(self) -> None:
        """Knows no session."""
        self.logs: dict[tuple[str, str, str], list[list[bytes]]] = {}

    async def newest(self, principal: Principal, session_id: str) -> int:
        """Number of the run accepted last."""
        return len(self._logs(principal, session_id))

    async def ends(
        self, principal: Principal, session_id: str, runs: Sequence[int]
    ) -> Sequence[tuple[int, bytes, bytes]]:
        """Both ends of the logs of these runs."""
        logs = self._logs(principal, session_id)
        found = [(run, logs[run - 1]) for run in runs if 0 < run <= len(logs)]
        return [(run, entries[0], entries[-1]) for run, entries in found if entries]

    def _logs(self, principal: Principal, session_id: str) -> list[list[bytes]]:
        return self.logs.get((principal.tenant, principal.user, session_id), [])
