"""The services beside the store, and the model, without any of them: for tests and for trying things out.

Each answers what it was told to, fails with what it was told to, and remembers what it was asked.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence

from services.kit.call import current_principal
from services.kit.errors import (
    AgentNotFound,
    ApprovalInvalid,
    ApprovalRequired,
    CollectionNotFound,
    ExecutionNotFound,
    InvalidArgument,
    InvalidToolArguments,
    ServiceError,
    ToolNotFound,
    ToolTimeout,
    ToolUnavailable,
)
from services.orchestrator.domain.agent import Agent, Knowledge, Message, SideEffect, Tool, ToolCall
from services.orchestrator.domain.turn import Chunk, Citation, ToolResult, Understanding

Script = Sequence[Chunk | str | float | Exception]
"""An answer of a model: pieces, texts that are pieces, seconds to wait, and errors to break with."""


class InMemoryAgents:
    """`ports.Agents`: agents of each tenant."""

    def __init__(self) -> None:
        """Knows none."""
        self._agents: dict[tuple[str, str], Agent] = {}
        self._revisions: dict[tuple[str, str, int], Agent] = {}

    def put(self, tenant: str, agent: Agent) -> None:
        """Makes a revision the latest."""
        self._agents[tenant, agent.name] = self._revisions[tenant, agent.name, agent.revision] = agent

    async def revision(self, name: str, revision: int) -> Agent:
        """One revision."""
        agent = self._revisions.get((current_principal().tenant, name, revision))
        if agent is None:
            raise AgentNotFound("no such revision")
        return agent

    async def latest(self, name: str) -> Agent:
        """The latest revision."""
        agent = self._agents.get((current_principal().tenant, name))
        if agent is None:
            raise AgentNotFound("no such agent")
        return agent


class InMemoryNlu:
    """`ports.Nlu`: knows texts word for word.

    Attributes:
        understanding: What every other text means.
        error: What every call fails with. None: they do not fail.
        calls: How often it was asked.
    """

    def __init__(self) -> None:
        """Knows no text."""
        self.understanding = Understanding()
        self.error: Exception | None = None
        self.calls = 0
        self._texts: dict[tuple[str, str], Understanding] = {}

    def put(self, agent: str, text: str, understanding: Understanding) -> None:
        """Says what a text means to an agent."""
        self._texts[agent, text] = understanding

    async def analyze(self, agent: Agent, text: str) -> Understanding:
        """What a text means to an agent."""
        self.calls += 1
        if self.error:
            raise self.error
        if not text.strip():
            raise InvalidArgument("text: must not be blank")
        return self._texts.get((agent.name, text), self.understanding)


class InMemoryRetrieval:
    """`ports.Retrieval`: a fact matches by the words it shares with the text, and among equals by its score.

    Attributes:
        facts: All there are; a fact's score is what `min_score` looks at.
        error: What every call fails with. None: they do not fail.
        embeddings: Those it was asked with, in order.
    """

    def __init__(self, collections: Sequence[str] | None = None) -> None:
        """Holds no fact. `collections` names those that exist; None: any does."""
        self.facts: Sequence[Citation] = ()
        self.error: Exception | None = None
        self.embeddings: list[Sequence[float]] = []
        self._collections = collections

    async def search(self, knowledge: Knowledge, text: str, embedding: Sequence[float]) -> tuple[Citation, ...]:
        """The facts that match best."""
        self.embeddings.append(embedding)
        if self.error:
            raise self.error
        if self._collections is not None and not set(knowledge.collections) <= set(self._collections):
            raise CollectionNotFound("no such collection")
        asked = _words(text)
        found = [
            fact
            for fact in self.facts
            if fact.collection in knowledge.collections and fact.score >= knowledge.min_score
        ]
        found.sort(key=lambda fact: (len(asked & _words(fact.text)), fact.score), reverse=True)
        return tuple(found[: knowledge.top_k])


class InMemoryTools:
    """`ports.Tools`: the tools an agent has, with the results they were given.

    Attributes:
        results: By tool: its result as JSON text and whether that is an error, or what the call fails with. A tool
            without one cannot be reached.
        hang: No tool ever answers.
        cut: A tool that hung was left before its time was over.
        calls: Each call that was made, with its run and key.
        begun: Each call that was begun in the background, likewise.
        ended: Each of those that was stopped.
        answered: By tool, what those have answered that nobody stopped before.
    """

    def __init__(self) -> None:
        """Has no result."""
        self.begun: list[tuple[ToolCall, str, str]] = []
        self.ended: list[tuple[ToolCall, str, str]] = []
        self.answered: dict[str, ToolResult] = {}
        self._used: set[str] = set()
        self.results: dict[str, tuple[str, bool] | ServiceError] = {}
        self.hang = False
        self.cut = False
        self.calls: list[tuple[ToolCall, str, str]] = []
        self._kept: dict[tuple[str, ...], ToolResult] = {}

    async def execute(
        self, agent: Agent, call: ToolCall, run_id: str, key: str, timeout: float, approval: str = ""
    ) -> ToolResult:
        """Runs a tool."""
        effect = self._begin(agent, call, run_id, key, approval)
        if effect not in self._kept:
            self.calls.append((call, run_id, key))
            if self.hang:
                await self._hang(timeout)
            result = self.results.get(call.tool, ToolUnavailable("the tool cannot be reached"))
            if isinstance(result, ServiceError):
                raise result
            self._kept[effect] = ToolResult(*result)
        return self._kept[effect]

    async def start(self, agent: Agent, call: ToolCall, run_id: str, key: str, approval: str = "") -> ToolResult | None:
        """Begins a tool in the background. Its result comes when somebody says so."""
        if (call, run_id, key) in self.begun:
            return self.answered.get(call.tool)
        self._begin(agent, call, run_id, key, approval)
        self.begun.append((call, run_id, key))
        return None

    async def stop(self, call: ToolCall, run_id: str, key: str) -> None:
        """Stops a tool in the background."""
        self.ended.append((call, run_id, key))

    async def result(self, call: ToolCall, run_id: str, key: str) -> ToolResult | None:
        """What a tool that runs in the background has answered."""
        if (call, run_id, key) not in self.begun:
            raise ExecutionNotFound("no such execution")
        return self.answered.get(call.tool)

    async def check_callback(self, url: str) -> None:
        """Only https addresses may be called back."""
        if not url.startswith("https://"):
            raise InvalidArgument("the address may not be called back", fields={"callback_url": "must be https"})

    def _begin(self, agent: Agent, call: ToolCall, run_id: str, key: str, approval: str) -> tuple[str, ...]:
        """The effect of a call that may be made."""
        if call.tool not in agent.tools:
            raise ToolNotFound("the agent has no such tool")
        tool = agent.tools[call.tool]
        _check_arguments(tool, call.arguments_json)
        caller = current_principal()
        effect = (caller.tenant, caller.user, run_id, call.tool, key)
        if tool.side_effect is SideEffect.SIDE_EFFECT and effect not in self._kept:
            if not approval:
                raise ApprovalRequired("the tool has side effects")
            if approval in self._used:
                raise ApprovalInvalid("the approval was used")
            self._used.add(approval)
        return effect

    async def _hang(self, timeout: float) -> None:
        try:
            await asyncio.sleep(timeout)
        except asyncio.CancelledError:
            self.cut = True
            raise
        raise ToolTimeout(f"the tool took longer than {timeout:.3g} s")


class InMemoryModel:
    """`ports.Model`: plays one script a call; the last one repeats. Each answer has 10 tokens read and 5 written.

    Attributes:
        scripts: What it plays.
        asked: The messages of each call.
        offered: The names of the tools of each call.
        stopped: How many answers were left before their end.
    """

    def __init__(self, scripts: Sequence[Script] = (("Hello.",),)) -> None:
        """Plays `scripts`."""
        self.scripts = scripts
        self.asked: list[list[Message]] = []
        self.offered: list[tuple[str, ...]] = []
        self.stopped = 0

    async def chat(
        self, model: str, messages: Sequence[Message], tools: Sequence[Tool], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Chunk]:
        """Streams an answer."""
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(list(messages))
        self.offered.append(tuple(tool.name for tool in tools))
        try:
            for step in script:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield _piece(step)
            yield Chunk(prompt_tokens=10, completion_tokens=5)
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise


def _piece(step: Chunk | str | Exception) -> Chunk:
    if isinstance(step, Exception):
        raise step
    return Chunk(step) if isinstance(step, str) else step


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _check_arguments(tool: Tool, arguments_json: str) -> None:
    """Only what needs no schema validator: a JSON object that has what is required."""
    try:
        arguments = json.loads(arguments_json)
    except ValueError:
        raise InvalidToolArguments("the arguments are not JSON") from None
    if not isinstance(arguments, dict):
        raise InvalidToolArguments("the arguments are not an object")
    missing = [name for name in tool.parameters.get("required", ()) if name not in arguments]
    if missing:
        raise InvalidToolArguments(f"missing: {', '.join(missing)}")
