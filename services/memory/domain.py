"""What memory deals in. Times are milliseconds since 1970, by the store's clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from services.kit.amounts import NO_AMOUNTS, Amounts


class Role(IntEnum):
    """Who said a message; the numbers are the contract's."""

    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    TOOL = 4


@dataclass(frozen=True, slots=True)
class Message:
    """One message, of which memory needs to know very little."""

    role: Role
    """Who said it."""

    size: int
    """UTF-8 bytes of all its text, arguments of tool calls included."""

    data: bytes
    """The whole message, serialised."""


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation of one user with one agent."""

    session_id: str
    agent: str
    created_ms: int
    updated_ms: int
    """When its last turn began, or when it was made."""
    run_count: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a user's list of sessions, the latest used first."""

    used_ms: int
    session_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a user's list of sessions."""

    sessions: Sequence[Session]
    next: Cursor | None
    """The place of the last one shown. None: there are no more."""


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a call safe to repeat."""

    request_id: str
    digest: bytes
    """Of what was asked: the same id with another digest is refused."""


class Concurrency(StrEnum):
    """What a run does while another run of its session has not ended."""

    REJECT = "REJECT"
    ENQUEUE = "ENQUEUE"
    INTERRUPT = "INTERRUPT"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True, slots=True)
class Order:
    """A run to begin, and how it gets its turn."""

    record: bytes = b""
    """What was asked: with it the run can wait in the session's line, and be taken over."""
    concurrency: Concurrency = Concurrency.ENQUEUE
    defer: bool = False
    """It goes to the line even if it could begin now."""
    due_ms: int = 0
    """It does not begin before."""
    wanted: Amounts = NO_AMOUNTS
    """What is set apart for it. Of what it does not say, as much as is configured."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn begun, one that the same request began before, or one that waits in the session's line."""

    run: int
    """Number of the run in its session, from 1."""
    token: int
    """The fencing token; 0 when attached."""
    attached: bool
    """True: the request was seen before. Only `run` counts."""
    agent: str
    history: Sequence[Message]
    """The newest messages, oldest first."""
    queued: bool = False
    """True: it waits. `token` is 0 and `history` empty."""
    position: int = 0
    """Runs ahead of it."""
    granted: Amounts = NO_AMOUNTS
    """What it may spend, of all budgets the least."""
    renews_ms: int = 0
    """When there is more. 0: never, or nothing limits it."""
    left: Amounts = NO_AMOUNTS
    """What all budgets have left for it, what is granted included; of a deferred one that waits, as far as is known."""


@dataclass(frozen=True, slots=True)
class Next:
    """A run of a session's line that is due."""

    run: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run to go on with."""

    turn: Turn
    record: bytes
    """What was asked."""
    checkpoint: bytes
    """How far the owner before had come. Empty: it had not."""
    attempts: int
    """How often an owner of the run was lost."""
    response: bytes = b""
    """What the run waited for. Empty: it did not wait."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended."""

    run: int
    token: int
    first_sequence: int
    """Sequence of the first of the last events."""
    last_events: Sequence[bytes]
    """What the log gains, in order; the last of it is the log's last."""
    messages: Sequence[Message] = ()
    """What the history gains."""
    spent: Amounts = NO_AMOUNTS
    """By the whole run."""


@dataclass(frozen=True, slots=True)
class Past:
    """What was said in a session, and how far its runs are."""

    agent: str
    runs: int
    """Number of the run accepted last."""
    unfinished: frozenset[int]
    """Runs that have not ended."""
    said: Sequence[tuple[int, Message]]
    """Oldest first, each with the number of the run that wrote it; 0: no run of this session did."""
    trimmed: bool
    """Older messages may be gone."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One revision of an agent."""

    name: str
    revision: int
    created_ms: int
    content: bytes
    """The agent, serialised, without revision and time."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things are kept, in milliseconds, and how many."""

    session_ms: int
    log_ms: int
    history_cap: int
    line_cap: int = 100
    """Runs of one session that wait for their turn."""
    request_ms: int = 86_400_000


class Scope(IntEnum):
    """Whose spending a budget limits; the numbers are the contract's."""

    SESSION = 1
    USER = 2
    TENANT = 3


@dataclass(frozen=True, slots=True)
class Whose:
    """Names a budget of a tenant."""

    scope: Scope
    name: str = ""
    """The session, or the user."""
    owner: str = ""
    """Whose the session must be. Empty: anybody's."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent."""

    limit: Amounts
    window_ms: int = 0
    """0: for ever."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget and how much of it is gone."""

    budget: Budget | None
    spent: Amounts
    reserved: Amounts
    renews_ms: int = 0
    """When the window ends. 0: never, or it has not begun."""

    @property
    def remaining(self) -> Amounts:
        """What was neither spent nor set apart, of what is limited."""
        return self.budget.limit.less(self.spent).less(self.reserved) if self.budget else NO_AMOUNTS


@dataclass(frozen=True, slots=True)
class Grant:
    """What one budget, or several together, let a run spend."""

    amounts: Amounts = NO_AMOUNTS
    renews_ms: int = 0
    """When there is more. 0: never, or nothing limits it."""
    left: Amounts = NO_AMOUNTS
    """What is left for it in all, what is granted included."""

    def after(self, counted: Amounts) -> "Grant":
        """The same for the whole of a run of which so much was counted before."""
        return Grant(self.amounts.more(counted), self.renews_ms, self.left.more(counted))


@dataclass(frozen=True, slots=True)
class Reserving:
    """How budgets are kept."""

    wanted: Amounts
    """What is set apart for a run that does not say what it wants, as far as it is limited and there."""
    lifetime_ms: int
    """After so long it is given back, whatever became of the run."""
    unused_ms: int
    """What was spent without a limit is forgotten so long after the last run."""

    def wants(self, wanted: Amounts) -> Amounts:
        """What is set apart for a run that wants so much."""
        return Amounts(*(default if each is None else each for each, default in zip(wanted, self.wanted, strict=True)))
