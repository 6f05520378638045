"""What a turn comes to know, and how far it has come."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.orchestrator.domain.agent import Message, ToolCall


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
    """What a run has used so far. `elapsed_s` and `remaining` are set when it is reported."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    elapsed_s: float = 0.0
    cost_micros: int = 0
    remaining: Amounts = NO_AMOUNTS


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
        waits_for: What the next of them waits for: an approval, or the id of a call in the background.
        approval: What the next of them runs under.
        effects: Calls whose tools may have changed something.
        failures: Attempts that failed for what may pass.
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
    waits_for: str = ""
    approval: str = ""
    effects: tuple[ToolCall, ...] = ()
    failures: int = 0
