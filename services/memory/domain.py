"""What memory deals in. Times are milliseconds since 1970, by the store's clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


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


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn begun, or the one that the same request began before."""

    run: int
    """Number of the run in its session, from 1."""
    token: int
    """The fencing token; 0 when attached."""
    attached: bool
    """True: the request was seen before. Only `run` counts."""
    agent: str
    history: Sequence[Message]
    """The newest messages, oldest first."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run taken over."""

    turn: Turn
    record: bytes
    """What was asked."""
    checkpoint: bytes
    """How far the owner before had come. Empty: it had not."""
    attempts: int
    """How often the run was taken over, this time included."""


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
    request_ms: int = 86_400_000
