"""The values toolexec works with."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class SideEffect(StrEnum):
    """What running a tool does to the world."""

    READ = "READ"
    IDEMPOTENT = "IDEMPOTENT"
    SIDE_EFFECT = "SIDE_EFFECT"


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """Runs a function the operator installed."""

    function: str


@dataclass(frozen=True, slots=True)
class HttpCall:
    """Calls an HTTP endpoint.

    Args:
        method: `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
        endpoint: Name of an endpoint of the operator's configuration. Empty: `url` is absolute and public.
        url: The URL, or the path beneath the endpoint; `{name}` stands for an argument.
        response: Name to JSON Pointer into the answer. Empty: the whole answer.
        max_response_bytes: The largest answer that is read, decoded.
        idempotency_key: The endpoint honours an `Idempotency-Key` header.
    """

    method: str
    endpoint: str
    url: str
    response: Mapping[str, str]
    max_response_bytes: int
    idempotency_key: bool


@dataclass(frozen=True, slots=True)
class ClientCall:
    """The client runs it, and nobody here does."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Something an agent can do.

    Args:
        name: Unique within the agent.
        description: For the model.
        parameters: JSON Schema of the arguments. None: there are no arguments.
        side_effect: What it does to the world.
        timeout: Seconds one call may take.
        roles: The user needs one of these. Empty: any user.
        call: How it runs.
        background: It is slow: its run waits for it without holding anything.
    """

    name: str
    description: str
    parameters: Mapping[str, Any] | None
    side_effect: SideEffect
    timeout: float
    roles: frozenset[str]
    call: FunctionCall | HttpCall | ClientCall
    background: bool = False


@dataclass(frozen=True, slots=True)
class AgentTools:
    """The tools of one revision of an agent, by name, in the agent's order."""

    agent: str
    revision: int
    tools: Mapping[str, Tool]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool returned.

    Args:
        result_json: JSON text.
        is_error: The tool answered, and its answer is an error for the model to read.
        duration: Seconds it took.
    """

    result_json: str
    is_error: bool
    duration: float


@dataclass(frozen=True, slots=True)
class CallKey:
    """Names one effect: a tool, within a run, under the caller's key."""

    run_id: str
    tool: str
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Begun:
    """The call is the caller's to make. The ticket proves it when the call ends."""

    ticket: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The call was made before; this came of it."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class InProgress:
    """Another caller is making the call."""


@dataclass(frozen=True, slots=True)
class BackgroundCall:
    """What is to be run in the background.

    Args:
        agent: Name of the agent.
        revision: The agent's revision, from 1.
        arguments_json: The arguments.
        tool_call_id: What its run waits for.
        once: It may have an effect each time it is begun, so it is begun once.
    """

    agent: str
    revision: int
    arguments_json: str
    tool_call_id: str
    once: bool


class State(StrEnum):
    """How far a tool in the background is. All but the first are final."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Background:
    """A tool in the background.

    Args:
        state: How far it is.
        call: What is run.
        outcome: What the tool answered, when it is done.
        reason: Machine-readable, when it failed or was stopped.
    """

    state: State
    call: BackgroundCall
    outcome: Outcome | None = None
    reason: str = ""


class CallbackState(StrEnum):
    """How far a callback is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Url:
    """Where a request goes, already checked and encoded.

    Args:
        scheme: `http` or `https`.
        host: Name or address; IPv6 without brackets.
        port: The port.
        target: Path and query as sent.
    """

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        """The URL as text."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One exchange with the outside; redirects are not followed.

    Args:
        method: The HTTP method.
        url: Where to.
        headers: All that is sent beside `Host` and the length of the body.
        body: None: no body.
        public_only: Refuse every address that is not public. False: an endpoint the operator named.
        max_bytes: Bytes of the decoded answer to read; the rest is cut.
    """

    method: str
    url: Url
    headers: Mapping[str, str]
    body: bytes | None
    public_only: bool
    max_bytes: int


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back.

    Args:
        status: The HTTP status.
        content_type: As sent, lower case, without parameters. Empty: none.
        body: The decoded body, `max_bytes` at most.
        truncated: There was more.
        location: Where a redirect points, as sent. Empty: nowhere.
    """

    status: int
    content_type: str
    body: bytes
    truncated: bool
    location: str
