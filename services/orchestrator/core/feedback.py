"""What users say of runs: kept, told, counted."""

import hashlib
import time

from services.kit.call import Principal
from services.kit.run_ids import session_of
from services.kit.telemetry import EventMetrics
from services.orchestrator.core.events import EventBus, Handler, happened
from services.orchestrator.domain.events import DomainEvent, EventType
from services.orchestrator.ports.store import FeedbackStore

_AGENTS = 100
_OTHERS = "others"
_TOLD = 1_000
"""Characters of a text that an event has: a tenant's events are many, and all of them are kept for a while."""


class Feedback:
    """Takes what users say of their runs."""

    def __init__(self, store: FeedbackStore, bus: EventBus) -> None:
        """Keeps it in `store` and tells it to `bus`."""
        self._store = store
        self._bus = bus

    async def submit(self, principal: Principal, run_id: str, score: int, text: str) -> None:
        """Keeps a word on a run, in place of an earlier one.

        Args:
            principal: Who says it: the run's user.
            run_id: The run.
            score: 1, bad, to 5, good.
            text: Why. May be empty.

        Raises:
            RunNotFound: they have no such run.
        """
        agent = await self._store.put(principal, run_id, score, text, time.time_ns() // 1_000_000)
        digest = hashlib.sha256(f"{score}\n{text}".encode()).hexdigest()[:16]
        said = {"agent": agent, "score": str(score)} | ({"text": text[:_TOLD]} if text else {})
        kind = EventType.FEEDBACK_RECEIVED
        self._bus.publish(happened(kind, principal, session_of(run_id), run_id, said, part=digest))


def count_feedback(metrics: EventMetrics) -> Handler:
    """Counts words by agent and score. Of agents the first hundred have a name, the rest are `others`."""
    named: set[str] = set()

    async def count(event: DomainEvent) -> None:
        agent = event.attributes["agent"]
        if agent not in named and len(named) < _AGENTS:
            named.add(agent)
        metrics.feedback.labels(agent if agent in named else _OTHERS, event.attributes["score"]).inc()

    return count
