"""What `InMemorySessionStore` keeps."""

from dataclasses import dataclass, field

from services.memory.domain import Message, Order, Session


@dataclass
class Seen:
    """A request that was made."""

    digest: bytes
    what: str
    until_ms: int


@dataclass
class Kept:
    """A session, and how far its runs are."""

    owner: str
    session: Session
    history: list[Message] = field(default_factory=list)
    requests: dict[str, Seen] = field(default_factory=dict)
    endings: dict[int, tuple[int, tuple[bytes, ...]]] = field(default_factory=dict)
    token: int = 0
    lease_until_ms: int = 0
    current: int = 0
    record: bytes = b""
    attempts: int = 0
    line: dict[int, Order] = field(default_factory=dict)
    reservation: str = ""
