"""What a turn is about, in plain types: the words the decisions and the ports share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from services.kit.errors import ServiceError


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


@dataclass(frozen=True, slots=True)
class Tool:
    """What of a tool matters to a turn. `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    timeout_s: float


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


@dataclass(frozen=True, slots=True)
class Entity:
    """Something found in the text; `start` and `end` in code points."""

    type: str
    text: str
    start: int
    end: int
    value: str


@dataclass(frozen=True, slots=True)
class Complexity:
    """How hard an utterance is to answer, 0 to 1, and why."""

    score: float = 0.0
    tools: float = 0.0
    multi_step: float = 0.0
    reasoning: float = 0.0


@dataclass(frozen=True, slots=True)
class Understanding:
    """What the user means. `intents` by falling confidence; `embedding` is of the whole text."""

    intents: tuple[tuple[str, float], ...] = ()
    out_of_scope: bool = False
    entities: tuple[Entity, ...] = ()
    complexity: Complexity = Complexity()
    language: str = ""
    embedding: Sequence[float] = ()

    @property
    def intent(self) -> str:
        """The intent that counts. Empty: none does."""
        return self.intents[0][0] if self.intents and not self.out_of_scope else ""


@dataclass(frozen=True, slots=True)
class Citation:
    """A fact and where it came from."""

    collection: str
    document_id: str
    title: str
    chunk_id: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered."""

    result_json: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a model's answer. `tool_calls` come whole, with the last piece; tokens likewise."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Usage:
    """What a run has used so far. `elapsed_s` is set when it is reported."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Record:
    """What was asked: all that another process needs to begin the run anew."""

    text: str
    agent: str
    revision: int
    roles: tuple[str, ...]
    """Roles of the principal it was accepted with."""


@dataclass(slots=True)
class Progress:
    """How far a turn has come: all that another process needs to go on with it.

    Args:
        sequence: Entries of the log that belong to it; later ones are of what was cut off.
        begun: Its first event is logged.
        understanding: What the user means, without the embedding. None: not known yet.
        facts: What was found. None: not looked for yet.
        step: Calls of the model that were answered.
        calls: Tool calls that step asked for. None: the model, or the intent, has not asked yet.
        answered: How many of them have an answer.
        started: The next of them was begun.
        messages: What the conversation with the model gained since its opening.
        said: The answer so far.
        usage: What was used.
        bad_calls: Tool calls that were refused for what they are.
    """

    sequence: int = 0
    begun: bool = False
    understanding: Understanding | None = None
    facts: tuple[Citation, ...] | None = None
    step: int = 0
    calls: tuple[ToolCall, ...] | None = None
    answered: int = 0
    started: bool = False
    messages: tuple[Message, ...] = ()
    said: str = ""
    usage: Usage = field(default_factory=Usage)
    bad_calls: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that memory began, or, when `attached`, one that it began earlier for the same request."""

    run_id: str
    fencing_token: int
    attached: bool
    agent: str
    history: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run taken over from a process that is gone."""

    turn: Turn
    record: bytes
    checkpoint: bytes
    """Empty: there is none."""
    attempts: int
    """How often it was taken over, this time included."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a run's log, as its owner has written it so far.

    Args:
        entries: In order, without holes.
        over: The log gets no more entries than it has now.
        held: Someone works on the run. Neither over nor held: whoever did is gone.
    """

    entries: tuple[bytes, ...]
    over: bool
    held: bool


# What is written into a run's log. protos/myriad/orchestrator/v1 says what each means to a client.


@dataclass(frozen=True, slots=True)
class Started:
    """The run was accepted."""

    agent: str
    revision: int


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
    """A tool was called."""

    call: ToolCall


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
    """The run was stopped."""

    partial_answer: str
    usage: Usage


Last = Completed | Failed | Cancelled
Event = Started | Understood | Retrieved | Routed | TextDelta | ToolStarted | ToolFinished | Restarted | Degraded | Last
