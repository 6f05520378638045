"""What a run's events amount to."""

import json
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import status_pb2

from myriad.common.v1 import common_pb2
from myriad.orchestrator.v1 import run_event_pb2
from services.kit.status import from_proto


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
    """`running`, `waiting`, `completed`, `failed` or `cancelled`."""

    asked: run_event_pb2.RunApprovalRequired | None = None
    """What somebody must answer before it goes on. None: nothing; one that waits then has a slow tool at work."""

    citations: list[common_pb2.Citation] = field(default_factory=list)
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id of the call."""

    usage: common_pb2.Usage = field(default_factory=common_pb2.Usage)
    error: status_pb2.Status | None = None
    events: list[run_event_pb2.RunEvent] = field(default_factory=list)
    _deltas: list[tuple[int, str]] = field(default_factory=list)
    _answered: set[str] = field(default_factory=set)

    @property
    def answer(self) -> str:
        """The text deltas that count."""
        return "".join(text for _, text in self._deltas)

    @property
    def last_sequence(self) -> int:
        """The cursor to resume from."""
        return self.events[-1].sequence if self.events else 0

    def add(self, event: run_event_pb2.RunEvent) -> None:
        """Takes the next event; heartbeats are passed over."""
        kind = event.WhichOneof("event")
        if event.sequence == 0 or kind is None:
            return
        self.run_id = event.run_id
        self.events.append(event)
        self._add_state(event)
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
            self.usage = getattr(event, kind).usage
            self.error = event.failed.error if kind == "failed" else None

    def answer_taken(self, token: str) -> None:
        """What was asked with this token is answered: the run goes on."""
        self._answered.add(token)
        if self.asked is not None and self.asked.approval_token == token:
            self.state, self.asked = "running", None

    def _add_state(self, event: run_event_pb2.RunEvent) -> None:
        kind = event.WhichOneof("event") or ""
        self.state, self.asked = "running", None
        if kind in {"completed", "failed", "cancelled"}:
            self.state = kind
        elif kind == "tool_started" and event.tool_started.background:
            self.state = "waiting"
        elif kind == "approval_required" and event.approval_required.approval_token not in self._answered:
            self.state, self.asked = "waiting", event.approval_required

    def _add_tool(self, event: run_event_pb2.RunEvent) -> None:
        if event.WhichOneof("event") == "tool_started":
            call = event.tool_started.call
            arguments = _json(call.arguments_json)
            self.tools[call.tool_call_id] = {"tool": call.tool, "arguments": arguments, "outcome": "", "reason": ""}
            return
        ended = event.tool_finished
        outcome = run_event_pb2.ToolOutcome.Name(ended.outcome).removeprefix("TOOL_OUTCOME_")
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
            "waits_for": _question(self.asked) if self.asked is not None else None,
            "error": to_dict(self.error) if self.error is not None else None,
            "usage": to_dict(self.usage),
            "events": [to_dict(event) for event in self.events],
        }


def reason_of(asked: run_event_pb2.RunApprovalRequired) -> str:
    """Why a run waits: `SIDE_EFFECT`, `OUTCOME_UNKNOWN` or `CLIENT_TOOL`."""
    return run_event_pb2.ApprovalReason.Name(asked.reason).removeprefix("APPROVAL_REASON_")


def _question(asked: run_event_pb2.RunApprovalRequired) -> dict[str, Any]:
    """For a program that answers."""
    call = asked.call
    return {
        "tool_call_id": call.tool_call_id,
        "tool": call.tool,
        "arguments": _json(call.arguments_json),
        "reason": reason_of(asked),
        "approval_token": asked.approval_token,
        "expire_time": asked.expire_time.ToJsonString(),
    }


def _json(text: str) -> Any:
    """JSON as a value; what is none stays text."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
