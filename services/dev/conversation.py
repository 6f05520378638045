"""Talks to an agent through Envoy as a client of ours should: resumes a broken stream, stops a run by saying so."""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import status_pb2

from myriad.common.v1 import common_pb2
from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from services.kit.clients import Client
from services.kit.errors import Internal, InvalidArgument, Unavailable
from services.kit.status import from_proto

TIMEOUT_S = 10.0
"""Longest time of a call with one reply."""

RUN_S = 900.0
"""Longest time of a run's stream."""

_RESUMES = 5
_RESUME_AFTER_S = 0.5


def to_dict(message: Message) -> dict[str, Any]:
    """A message in the JSON form that Envoy prints, fields that are zero included."""
    known = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return dict(known)


@dataclass
class Transcript:
    """What a run's events amount to."""

    run_id: str = ""
    state: str = "running"
    """`running`, `completed`, `failed` or `cancelled`."""

    citations: list[common_pb2.Citation] = field(default_factory=list)
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id of the call."""

    usage: common_pb2.Usage = field(default_factory=common_pb2.Usage)
    error: status_pb2.Status | None = None
    events: list[pb.RunEvent] = field(default_factory=list)
    _deltas: list[tuple[int, str]] = field(default_factory=list)

    @property
    def answer(self) -> str:
        """The text deltas that count."""
        return "".join(text for _, text in self._deltas)

    @property
    def last_sequence(self) -> int:
        """The cursor to resume from."""
        return self.events[-1].sequence if self.events else 0

    def add(self, event: pb.RunEvent) -> None:
        """Takes the next event; heartbeats are passed over."""
        kind = event.WhichOneof("event")
        if event.sequence == 0 or kind is None:
            return
        self.run_id = event.run_id
        self.events.append(event)
        if kind == "text_delta":
            self._deltas.append((event.sequence, event.text_delta.text))
        elif kind == "restarted":
            first = event.restarted.discard_from_sequence
            self._deltas = [delta for delta in self._deltas if delta[0] < first]
        elif kind == "retrieved":
            self.citations = list(event.retrieved.citations)
        elif kind in {"tool_started", "tool_finished"}:
            self._add_tool(event)
        elif kind == "usage":
            self.usage = event.usage
        elif kind in {"completed", "failed", "cancelled"}:
            self.state = kind
            self.usage = getattr(event, kind).usage
            self.error = event.failed.error if kind == "failed" else None

    def _add_tool(self, event: pb.RunEvent) -> None:
        if event.WhichOneof("event") == "tool_started":
            call = event.tool_started.call
            arguments = _json(call.arguments_json)
            self.tools[call.tool_call_id] = {"tool": call.tool, "arguments": arguments, "outcome": "", "reason": ""}
            return
        ended = event.tool_finished
        outcome = pb.ToolOutcome.Name(ended.outcome).removeprefix("TOOL_OUTCOME_")
        known = self.tools.setdefault(ended.tool_call_id, {"tool": ended.tool, "arguments": None})
        known |= {"outcome": outcome, "reason": ended.reason, "result": _json(ended.result_json)}

    def failure(self) -> str:
        """Why there is no whole answer. Empty: there is one."""
        if self.error is not None:
            error = from_proto(self.error)
            return f"{error.message} ({error.reason})"
        return "" if self.state == "completed" else f"the run is {self.state}"

    def to_dict(self) -> dict[str, Any]:
        """For a program."""
        return {
            "answer": self.answer,
            "citations": [to_dict(citation) for citation in self.citations],
            "tools": [{"tool_call_id": call_id, **call} for call_id, call in self.tools.items()],
            "run_id": self.run_id,
            "state": self.state,
            "error": to_dict(self.error) if self.error is not None else None,
            "usage": to_dict(self.usage),
            "events": [to_dict(event) for event in self.events],
        }


class Conversation:
    """One session with an agent."""

    def __init__(self, client: Client, session_id: str, agent: str) -> None:
        """Talks in a session that is there."""
        self.session_id = session_id
        self.agent = agent
        self._client = client
        self._stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)

    @classmethod
    async def begin(cls, client: Client, *, agent: str | None, session_id: str | None) -> "Conversation":
        """Opens a session, or takes up one.

        Args:
            client: Of the orchestrator.
            agent: Whom to talk to. None: the agent of the session.
            session_id: The session to take up. None: a new one.

        Raises:
            ServiceError: there is no such agent or session, or nothing answers.
            InvalidArgument: the session is with another agent, or neither is named.
        """
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        if session_id is None:
            if agent is None:
                raise InvalidArgument("name an agent or a session")
            opening = pb.CreateSessionRequest(agent=agent, request_id=uuid.uuid4().hex)
            session = (await client.unary(stub.CreateSession, opening, timeout=TIMEOUT_S)).session
        else:
            known = pb.GetSessionRequest(session_id=session_id)
            session = (await client.unary(stub.GetSession, known, timeout=TIMEOUT_S)).session
            if agent is not None and agent != session.agent:
                raise InvalidArgument(f"session {session_id} is with {session.agent}, not with {agent}")
        return cls(client, session.session_id, session.agent)

    async def say(self, text: str) -> AsyncGenerator[pb.RunEvent]:
        """Says something; yields the events of the run that answers, to its last.

        A stream that breaks is resumed. A task that is cancelled meanwhile stops the run.

        Raises:
            ServiceError: the turn was refused, or the stream broke for good.
        """
        seen = Transcript()
        request = pb.RunTurnRequest(
            session_id=self.session_id,
            input=text,
            request_id=uuid.uuid4().hex,
            on_disconnect=pb.ON_DISCONNECT_CONTINUE,
        )
        try:
            for attempt in range(_RESUMES):
                try:
                    async with aclosing(self._stream(request, seen)) as events:
                        async for event in events:
                            seen.add(event)
                            yield event
                    if seen.state != "running":
                        return
                except (Unavailable, Internal):
                    if not seen.run_id or attempt == _RESUMES - 1:
                        raise
                await asyncio.sleep(_RESUME_AFTER_S * 2**attempt)
        except asyncio.CancelledError:
            await self._cancel(seen.run_id)
            raise
        raise Internal("the run's stream ended without its last event")

    def _stream(self, request: pb.RunTurnRequest, seen: Transcript) -> AsyncGenerator[pb.RunEvent]:
        if not seen.run_id:
            return self._client.stream(self._stub.RunTurn, request, timeout=RUN_S)
        watch = pb.WatchRunRequest(run_id=seen.run_id, after_sequence=seen.last_sequence)
        return self._client.stream(self._stub.WatchRun, watch, timeout=RUN_S)

    async def _cancel(self, run_id: str) -> None:
        if run_id:
            request = pb.CancelRunRequest(run_id=run_id)
            await self._client.unary(self._stub.CancelRun, request, timeout=TIMEOUT_S)


def _json(text: str) -> Any:
    """JSON as a value; what is none stays text."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
