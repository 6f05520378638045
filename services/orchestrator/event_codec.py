"""Domain events as messages of the contract, and what a run's log says of its end."""

from myriad.orchestrator.v1 import events_pb2, run_event_pb2
from services.kit.errors import Cancelled
from services.kit.status import from_proto
from services.orchestrator.domain.events import DomainEvent
from services.orchestrator.domain.run import RunEnd


def write_event(cursor: str, event: DomainEvent) -> events_pb2.DomainEvent:
    """An event as the contract has it."""
    message = events_pb2.DomainEvent(
        cursor=cursor,
        event_id=event.id,
        type=event.type,
        session_id=event.session_id,
        run_id=event.run_id,
        user=event.user,
        attributes=event.attributes,
    )
    message.time.FromMilliseconds(event.time_ms)
    return message


def read_end(first: bytes, newest: bytes) -> RunEnd | None:
    """How the run ended whose log begins and ends with these entries. None: it has not."""
    begun, last = run_event_pb2.RunEvent.FromString(first), run_event_pb2.RunEvent.FromString(newest)
    match last.WhichOneof("event"):
        case "completed":
            reason = ""
        case "cancelled":
            reason = Cancelled.reason
        case "failed":
            reason = from_proto(last.failed.error).reason
        case _:
            return None
    return RunEnd(begun.started.agent.name, reason, last.time.ToMilliseconds())
