"""Runs: what is asked, how they stand, what they wait for."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.errors import ServiceError
from services.orchestrator.domain.agent import Message


class Concurrency(StrEnum):
    """What a run does while another run of its session has not ended."""

    REJECT = "REJECT"
    ENQUEUE = "ENQUEUE"
    INTERRUPT = "INTERRUPT"
    ROLLBACK = "ROLLBACK"


class Stop(IntEnum):
    """How a run was told to stop; the numbers are the store's."""

    NO = 0
    STOP = 1
    """What it has said so far stays in the history."""
    ROLL_BACK = 2
    """Nothing of it enters the history."""


class Standing(StrEnum):
    """How a run stands."""

    QUEUED = "QUEUED"
    """It has not begun, or is tried again later."""
    AT_WORK = "AT_WORK"
    """Someone works on it, or will take it over."""
    WAITING = "WAITING"
    """It waits for an answer or a slow tool."""
    OVER = "OVER"
    """Its log gets no more entries."""
    LOST = "LOST"
    """Whoever worked on it is gone, and nobody goes on."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was asked: all that another process needs to begin the run anew."""

    text: str
    agent: str
    revision: int
    roles: tuple[str, ...]
    """Roles of the principal it was accepted with."""
    queue: str = ""
    """Class of the queue whose workers run it. Empty: whoever ends the run before it does."""
    priority: int = 5
    callback_url: str = ""
    """Told when it has ended. Empty: nobody is."""
    traceparent: str = ""
    """The trace of the call that asked, as W3C writes it: all that is done for the run is part of it. Empty: none."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A run of the queue that was given up after its last attempt.

    Args:
        run_id: The run.
        user: Whose it was.
        record: What was asked.
        attempts: How often it was tried.
        error: Why the last attempt failed.
        time_ms: When it was given up, milliseconds since 1970.
    """

    run_id: str
    user: str
    record: Record
    attempts: int
    error: ServiceError
    time_ms: int


@dataclass(frozen=True, slots=True)
class Request:
    """A run that someone asks for.

    Args:
        session_id: In which session.
        text: What is said.
        request_id: Makes it safe to ask again. Empty: it is not.
        concurrency: What to do while another run of the session has not ended.
        queue: Class of the queue whose workers run it. Empty: this process does, if it can begin now.
        priority: 0 to 9.
        due_ms: It does not begin before, milliseconds since 1970. 0: now. Needs a queue.
        callback_url: Told when it has ended. Empty: nobody is.
    """

    session_id: str
    text: str
    request_id: str = ""
    concurrency: Concurrency = Concurrency.ENQUEUE
    queue: str = ""
    priority: int = 5
    due_ms: int = 0
    callback_url: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that memory began.

    When `attached`, one that it began earlier for the same request; when `queued`, one that waits in the session's
    line, behind `position` others.
    """

    run_id: str
    fencing_token: int
    attached: bool
    agent: str
    history: tuple[Message, ...]
    queued: bool = False
    position: int = 0
    granted: Amounts = NO_AMOUNTS
    """What the whole run may spend; what limits it is said only."""
    renews_ms: int = 0
    """When there is more, milliseconds since 1970. 0: never."""
    left: Amounts = NO_AMOUNTS
    """What budgets have left for the whole run, what was granted included."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What the whole run may spend by now: as in `Turn`."""

    granted: Amounts
    renews_ms: int
    left: Amounts


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run that was accepted."""

    run_id: str
    log: tuple[bytes, ...] = ()
    """All of its log, if it has just begun to wait in the session's line. Empty: it is to be read."""
    left: Amounts = NO_AMOUNTS
    """What budgets have left, as far as it is known."""


@dataclass(frozen=True, slots=True)
class Next:
    """A run of a session's line that may begin."""

    run_id: str
    record: bytes


@dataclass(frozen=True, slots=True)
class Dropped:
    """A run that was taken out of a session's line.

    Args:
        record: What was asked.
        due_ms: When it was to begin, milliseconds since 1970.
        next: The run of the line that is due next.
    """

    record: bytes
    due_ms: int
    next: Next | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a run waits for, when it holds its session but no process.

    Args:
        what: `answer`; `tool:<call id>`; or `again`: it is tried again.
        wait_s: After so long it waits no more.
        wake: Queue that whoever wakes it puts it into.
        approval: SHA-256 of the token whose holder may answer, in hexadecimal digits. Empty: nobody may.
        entry: What the approval is good for, as JSON.
    """

    what: str
    wait_s: float
    wake: str = ""
    approval: str = ""
    entry: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run waited for.

    Args:
        tool_call_id: Of a tool that ran in the background: the call.
        approval: Of what somebody answered: SHA-256 of the token that was answered with.
        approved: The tool may run.
        result_json: What the tool answered. Empty: it did not.
        is_error: The tool's answer is an error.
        reason: Why it was turned down, or could not be run.
    """

    tool_call_id: str = ""
    approval: str = ""
    approved: bool = False
    result_json: str = ""
    is_error: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run to go on with."""

    turn: Turn
    record: bytes
    checkpoint: bytes
    """Empty: there is none."""
    attempts: int
    """How often an owner of it was lost."""
    response: bytes = b""
    """What it waited for. Empty: it did not wait."""


@dataclass(frozen=True, slots=True)
class Responded:
    """A run that was given the answer it waits for."""

    owner: Principal
    """Whose run it is, without roles."""
    remaining: Amounts = NO_AMOUNTS
    """What budgets had left for it when it began to wait."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a run's log, as its owner has written it so far: entries in order, without holes."""

    entries: tuple[bytes, ...]
    standing: Standing


@dataclass(frozen=True, slots=True)
class CallbackOutcome:
    """What became of a run's callback: `pending`, `delivered` or `failed`. `end_ms` since 1970; 0: it has not ended."""

    state: str
    attempts: int = 0
    reason: str = ""
    end_ms: int = 0


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended, as its log tells. No reason: with an answer. `time_ms` since 1970."""

    agent: str
    reason: str
    time_ms: int
