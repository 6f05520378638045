"""What is told of a tenant's runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class EventType(StrEnum):
    """What is told of a tenant."""

    SESSION_STARTED = "session.started"
    RUN_STARTED = "run.started"
    RUN_COMPLETED = "run.completed"
    RUN_FAILED = "run.failed"
    TOOL_EXECUTED = "tool.executed"
    FEEDBACK_RECEIVED = "feedback.received"


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """Something that happened in a tenant.

    Args:
        tenant: In which.
        id: The same however often it is told.
        type: What happened.
        time_ms: When, ms since 1970.
        user: Of which user.
        session_id: In which session.
        run_id: Of which run. Empty: of none.
        attributes: What there is to say of it.
    """

    tenant: str
    id: str
    type: str
    time_ms: int
    user: str
    session_id: str
    run_id: str
    attributes: Mapping[str, str]
