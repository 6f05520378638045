"""The contract's side of what happens in a tenant: events watched, feedback taken, sessions announced."""

from collections.abc import AsyncGenerator

from myriad.memory.v1 import memory_pb2
from myriad.orchestrator.v1 import events_pb2, run_pb2, sessions_pb2
from services.kit.call import Principal
from services.kit.errors import RunNotFound
from services.kit.run_ids import read_run_id
from services.orchestrator.core.event_feed import EventFeed
from services.orchestrator.core.events import EventBus, happened
from services.orchestrator.core.feedback import Feedback
from services.orchestrator.domain.events import EventType
from services.orchestrator.event_codec import write_event


class Happenings:
    """Answers what is asked of events and feedback."""

    def __init__(self, bus: EventBus, feed: EventFeed, feedback: Feedback) -> None:
        """Tells `bus`, watches `feed`, keeps `feedback`."""
        self._bus = bus
        self._feed = feed
        self._feedback = feedback

    def session_started(self, principal: Principal, session: memory_pb2.Session) -> None:
        """Tells of a session that was made. One made by a repeated request is told again, and is the same event."""
        kind, made_ms = EventType.SESSION_STARTED, session.create_time.ToMilliseconds()
        said = {"agent": session.agent}
        self._bus.publish(happened(kind, principal, session.session_id, attributes=said, time_ms=made_ms))

    async def submit(self, principal: Principal, request: run_pb2.SubmitFeedbackRequest) -> None:
        """Takes a word on a run. Raises RunNotFound."""
        await self._feedback.submit(principal, request.run_id, request.score, request.text)

    async def watch(
        self, principal: Principal, request: events_pb2.WatchEventsRequest
    ) -> AsyncGenerator[events_pb2.DomainEvent]:
        """Streams what happens in the caller's tenant. Raises Overloaded; StoreUnavailable."""
        told = self._feed.watch(principal.tenant, request.after, request.types)
        try:
            async for found in told:
                yield write_event(*found) if found else events_pb2.DomainEvent()
        finally:
            await told.aclose()


def copy_request(request: sessions_pb2.ForkSessionRequest) -> memory_pb2.CopySessionRequest:
    """What memory is asked for to fork a session.

    Raises:
        RunNotFound: the run is none of the session.
    """
    session_id, run = read_run_id(request.run_id) if request.run_id else (request.session_id, 0)
    if session_id != request.session_id:
        raise RunNotFound("no such run")
    return memory_pb2.CopySessionRequest(session_id=session_id, run=run, request_id=request.request_id)
