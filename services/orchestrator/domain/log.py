"""What is written into a run's log. protos/myriad/orchestrator/v1 says what each means to a client."""

from dataclasses import dataclass
from enum import StrEnum

from services.kit.errors import ServiceError
from services.orchestrator.domain.agent import ToolCall
from services.orchestrator.domain.turn import Citation, Understanding, Usage


@dataclass(frozen=True, slots=True)
class Started:
    """The run was accepted."""

    agent: str
    revision: int


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits behind so many others of its session, and then for the workers of a class, if it has one."""

    position: int
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Understood:
    """What the user means."""

    understanding: Understanding


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The facts that were found."""

    citations: tuple[Citation, ...]


@dataclass(frozen=True, slots=True)
class Routed:
    """Who answers, and why. No model: the answer needs none."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool was called. In the background: the run waits for it."""

    call: ToolCall
    background: bool = False


class ApprovalReason(StrEnum):
    """Why a run waits for an answer."""

    SIDE_EFFECT = "SIDE_EFFECT"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    CLIENT_TOOL = "CLIENT_TOOL"


@dataclass(frozen=True, slots=True)
class ApprovalRequired:
    """Somebody must decide, or the client must act. `expires_ms` in milliseconds since 1970."""

    call: ToolCall
    token: str
    reason: ApprovalReason
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Used:
    """What the run has used so far."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Restarted:
    """Text deltas of this sequence and later ones, up to here, do not count."""

    discard_from_sequence: int


class Outcome(StrEnum):
    """How a tool call ended."""

    OK = "OK"
    ERROR = "ERROR"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool call ended."""

    call: ToolCall
    outcome: Outcome
    result_json: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Degraded:
    """Something is missing, and the run goes on without it."""

    component: str
    reason: str


@dataclass(frozen=True, slots=True)
class Completed:
    """The run ended with an answer."""

    answer: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended without one."""

    error: ServiceError
    partial_answer: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was stopped. Rolled back: it leaves no trace but `effects`, the calls that may have changed something."""

    partial_answer: str
    usage: Usage
    rolled_back: bool = False
    effects: tuple[ToolCall, ...] = ()


Last = Completed | Failed | Cancelled

Happened = Started | Queued | Understood | Retrieved | Routed | TextDelta | Restarted | Degraded | Used

OfTools = ToolStarted | ToolFinished | ApprovalRequired

Event = Happened | OfTools | Last
