"""Agents, and what is said in a conversation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who said a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A request to run a tool. `arguments_json` is a JSON object as text, not yet checked."""

    id: str
    tool: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolBinding:
    """The tool an intent calls, which entity fills which parameter, and what to ask when one is missing."""

    tool: str
    arguments: Mapping[str, str]
    ask: str


@dataclass(frozen=True, slots=True)
class Intent:
    """What of an intent matters to a turn."""

    name: str
    binding: ToolBinding | None = None
    skip_knowledge: bool = False


class SideEffect(StrEnum):
    """What running a tool does to the world."""

    READ = "READ"
    IDEMPOTENT = "IDEMPOTENT"
    SIDE_EFFECT = "SIDE_EFFECT"


@dataclass(frozen=True, slots=True)
class Tool:
    """What of a tool matters to a turn. `parameters` is the JSON Schema of its arguments.

    Args:
        side_effect: What running it does.
        background: It is slow: the run waits for it without a process.
        client: The client runs it.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    timeout_s: float
    side_effect: SideEffect = SideEffect.READ
    background: bool = False
    client: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it changes something, and that once, however often it is called with the same key."""
        return self.side_effect is SideEffect.IDEMPOTENT

    @property
    def needs_answer(self) -> bool:
        """Whether somebody must answer before it has a result."""
        return self.client or self.side_effect is SideEffect.SIDE_EFFECT


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Where facts come from, and how many."""

    collections: tuple[str, ...]
    top_k: int
    min_score: float


@dataclass(frozen=True, slots=True)
class Agent:
    """One revision of an agent, defaults filled in. Times in seconds."""

    name: str
    revision: int
    persona: str
    intents: Mapping[str, Intent] = field(default_factory=dict)
    tools: Mapping[str, Tool] = field(default_factory=dict)
    knowledge: Knowledge | None = None
    model: str = ""
    max_answer_tokens: int = 256
    temperature: float = 0.2
    model_chooses_tools: bool = False
    max_steps: int = 6
    max_tokens: int = 2048
    timeout_s: float = 60.0
    max_cost_micros: int = 0
    """0: anything."""
    max_tool_calls: int = 0
    """0: as many as the steps allow."""
