"""What the decisions need from outside. Each method raises `ServiceError`s; each call ends by its own deadline."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from services.kit.call import Principal
from services.kit.errors import ServiceError
from services.orchestrator.domain import (
    Agent,
    Chunk,
    Citation,
    Event,
    Knowledge,
    Message,
    Page,
    Progress,
    Record,
    Resumed,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    Understanding,
)


class Memory(Protocol):
    """Sessions and what was said in them."""

    async def begin_turn(
        self, session_id: str, request_id: str, digest: bytes, lease_s: float, record: bytes = b""
    ) -> Turn:
        """Takes the session for a run, and keeps its record until it ends.

        Raises:
            SessionNotFound, SessionBusy, RequestIdReused.
        """

    async def resume_turn(self, session_id: str, lease_s: float) -> Resumed:
        """Takes over the session's unfinished run, whose owner is gone.

        Raises:
            SessionNotFound: there is no such session.
            RunNotFound: no run waits for an owner.
            SessionBusy: it has one.
        """

    async def commit_turn(self, turn: Turn, messages: Sequence[Message], last: Sequence[bytes], sequence: int) -> None:
        """Ends a turn: its messages enter the history, `last` ends its log from `sequence` on. Safe to repeat.

        Raises:
            LeaseLost: a later turn holds the session.
        """

    async def abandon_turn(self, turn: Turn, last: Sequence[bytes], sequence: int) -> None:
        """Ends a turn that leaves nothing in the history.

        Raises:
            LeaseLost: a later turn holds the session.
        """

    async def agent_of(self, session_id: str) -> str:
        """Name of the agent the session is with.

        Raises:
            SessionNotFound: there is no such session of the caller.
        """


class Agents(Protocol):
    """Agents by name."""

    async def revision(self, name: str, revision: int) -> Agent:
        """One revision.

        Raises:
            AgentNotFound: there is no such revision any more.
        """

    async def latest(self, name: str) -> Agent:
        """The latest revision; at most a second old.

        Raises:
            AgentNotFound: there is none.
        """


class Nlu(Protocol):
    """What users mean."""

    async def analyze(self, agent: Agent, text: str) -> Understanding:
        """What a text means to an agent."""


class Retrieval(Protocol):
    """Facts."""

    async def search(self, knowledge: Knowledge, text: str, embedding: Sequence[float]) -> tuple[Citation, ...]:
        """The facts that match best, best first. Without an embedding the text is embedded there."""


class Tools(Protocol):
    """Things an agent can do."""

    async def execute(self, agent: Agent, call: ToolCall, run_id: str, key: str, timeout: float) -> ToolResult:
        """Runs a tool, at most once per `key` of a run.

        Raises:
            InvalidToolArguments, ToolNotFound, ToolNotAllowed, ApprovalRequired: it was not run.
            ToolTimeout, ToolUnavailable, ToolResponseTooLarge: it was tried.
        """


class Model(Protocol):
    """The language model."""

    def chat(
        self, model: str, messages: Sequence[Message], tools: Sequence[Tool], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Chunk]:
        """Streams an answer. Leaving the iteration stops the model.

        Raises:
            ModelUnavailable: the tier does not answer, or is busy.
            ModelFailed: the model answered with an error.
        """


class RunLog(Protocol):
    """The ordered log of each run, kept beyond the process. Entries are opaque; the codec reads them."""

    async def append(
        self, principal: Principal, turn: Turn, first_sequence: int, entries: Sequence[bytes], checkpoint: bytes = b""
    ) -> bool:
        """Appends entries, the first with `first_sequence`, keeps a checkpoint with them, and holds the session on.

        Returns:
            Whether someone asked for the run to stop.

        Raises:
            LeaseLost: a later turn holds the session.
            StoreUnavailable: the store does not answer.
        """

    async def hold(self, runs: Sequence[tuple[Principal, Turn]]) -> list[bool | ServiceError]:
        """Holds the sessions of many runs on.

        Returns:
            Of each run whether someone asked for it to stop; or why its session is not held: LeaseLost when a later
            turn has it.

        Raises:
            StoreUnavailable: the store does not answer at all.
        """

    async def let_go(self, principal: Principal, turn: Turn) -> None:
        """Holds the session of a run no longer: another process may take it over at once.

        Raises:
            LeaseLost: a later turn holds the session.
            StoreUnavailable: the store does not answer.
        """

    async def read(self, principal: Principal, run_id: str, after_sequence: int, limit: int) -> Page:
        """Up to `limit` entries after a sequence, in order.

        Raises:
            RunNotFound: the caller has no such run, or its log is gone.
        """

    async def bounds(self, principal: Principal, run_id: str) -> tuple[bytes, bytes, bool]:
        """The first and the newest entry, and whether someone works on the run.

        Raises:
            RunNotFound: the caller has no such run, or its log is gone or still empty.
        """

    async def request_cancel(self, principal: Principal, run_id: str) -> None:
        """Asks whoever owns the run to stop it. Changes nothing when it has ended.

        Raises:
            RunNotFound: the caller has no such run.
        """


class Owners(Protocol):
    """Which process works in which sessions, so that others can go on when it is gone."""

    async def beat(self) -> Sequence[str]:
        """Says that this process lives. Returns those that were not heard of in time."""

    async def hold(self, principal: Principal, session_id: str) -> None:
        """Says that this process works in a session."""

    async def release(self, sessions: Sequence[tuple[Principal, str]]) -> None:
        """Says that it no longer does."""

    async def leave(self) -> None:
        """Says that this process is gone."""

    async def take(self, gone: str) -> None:
        """Makes all sessions of a process that is gone this process's own."""

    async def mine(self) -> Sequence[tuple[Principal, str]]:
        """Sessions that are this process's own. Principals come without roles."""


class Codec(Protocol):
    """Events as entries of a log."""

    def encode(self, run_id: str, sequence: int, event: Event) -> bytes:
        """The entry of an event."""

    def is_last(self, entry: bytes) -> bool:
        """Whether a log ends with this entry."""

    def is_delta(self, entry: bytes) -> bool:
        """Whether an entry is a piece of the answer."""

    def encode_record(self, record: Record) -> bytes:
        """What was asked, to be kept."""

    def decode_record(self, data: bytes) -> Record:
        """What was asked."""

    def encode_progress(self, progress: Progress) -> bytes:
        """A checkpoint, to be kept."""

    def decode_progress(self, data: bytes) -> Progress:
        """A checkpoint. Empty data: nothing was done yet."""
