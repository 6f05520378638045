"""One turn: understand, find facts, call tools, ask the model, until there is an answer or a limit."""

import json
from collections.abc import Awaitable
from contextlib import aclosing

from services.kit.errors import (
    ApprovalRequired,
    DeadlineExceeded,
    InvalidToolArguments,
    ModelFailed,
    ResourceExhausted,
    RunLimitReached,
    ServiceError,
    ServiceUnavailable,
    ToolNotAllowed,
    ToolNotFound,
    ToolResponseTooLarge,
)
from services.orchestrator.config import Config
from services.orchestrator.core import prompt
from services.orchestrator.core.arguments import Schemas, repaired
from services.orchestrator.core.live import LiveRun
from services.orchestrator.core.toolcalls import Asked, idempotency_key, intended
from services.orchestrator.domain import (
    Agent,
    Citation,
    Degraded,
    Event,
    Message,
    Outcome,
    Retrieved,
    Role,
    Routed,
    Started,
    TextDelta,
    ToolCall,
    ToolFinished,
    ToolResult,
    ToolStarted,
    Understanding,
    Understood,
    Usage,
)
from services.orchestrator.ports import Model, Retrieval, Tools

_REFUSALS = (ApprovalRequired, InvalidToolArguments, ToolNotAllowed, ToolNotFound, ResourceExhausted)
_MAX_BAD_CALLS = 3
_MAX_CALLS = 16
"""Tools that one answer of the model may ask for."""
_LONGEST_NAME = 64
_LONGEST_TEXT = 16_000
"""Characters of a call's arguments or result."""
_LONGEST_ANSWER = 262_144
"""Bytes of a whole answer: what one message of the history takes."""


class TurnLoop:
    """The work of one run. There is one agent loop, and this is it."""

    def __init__(
        self, run: LiveRun, agent: Agent, text: str, *, retrieval: Retrieval, tools: Tools, model: Model, config: Config
    ) -> None:
        """Prepares the turn of `run` in which the user says `text` to `agent`."""
        self._said: list[str] = []
        self.usage = Usage()
        self.gained: list[Message] = [Message(Role.USER, text)]
        self._run = run
        self._agent = agent
        self._text = text
        self._retrieval = retrieval
        self._tools = tools
        self._model = model
        self._model_name = agent.model or config.models[0]
        self._schemas = Schemas(agent.tools)
        self._bad_calls = 0
        self._room = _LONGEST_ANSWER

    async def work(self, analysis: Awaitable[Understanding]) -> None:
        """Brings the turn to its answer. What it says and uses is in `answer`, `gained` and `usage`, however it ends.

        Args:
            analysis: What the user means, perhaps still on its way.

        Raises:
            RunLimitReached: the run used all it was allowed to.
            ServiceError: the model or the store does not answer.
        """
        self._run.note(Started(self._agent.name, self._agent.revision))
        understanding = await self._understand(analysis)
        facts = await self._find_facts(understanding)
        asked = intended(self._agent, understanding, self._run.turn.history)
        if isinstance(asked, Asked):
            self._run.note(Routed("", f"missing argument {asked.parameter}"))
            await self._say(asked.question)
        else:
            self._run.note(Routed(self._model_name, "the agent's model" if self._agent.model else "default model"))
            await self._converse(prompt.opening(self._agent, facts, self._run.turn.history, self._text), asked)
        if self.answer:
            self.gained.append(Message(Role.ASSISTANT, self.answer))

    @property
    def answer(self) -> str:
        """The answer, as far as it goes."""
        return "".join(self._said)

    async def _say(self, text: str) -> None:
        """Takes the next piece of the answer. The first is shown at once: the reader sees that something comes."""
        self._room -= len(text.encode())
        if self._room < 0:
            raise RunLimitReached(f"the answer is longer than {_LONGEST_ANSWER} bytes")
        self._said.append(text)
        if len(self._said) > 1:
            self._run.note(TextDelta(text))
        else:
            await self._run.append(TextDelta(text))

    async def _understand(self, analysis: Awaitable[Understanding]) -> Understanding:
        if not self._agent.intents:
            return Understanding()
        try:
            understanding = await analysis
        except ServiceError as error:
            self._run.note(Degraded("nlu", error.reason))
            return Understanding()
        self._run.note(Understood(understanding))
        return understanding

    async def _find_facts(self, understanding: Understanding) -> tuple[Citation, ...]:
        intent = self._agent.intents.get(understanding.intent)
        if self._agent.knowledge is None or (intent is not None and intent.skip_knowledge):
            return ()
        try:
            facts = await self._retrieval.search(self._agent.knowledge, self._text, understanding.embedding)
        except ServiceError as error:
            self._run.note(Degraded("retrieval", error.reason))
            return ()
        self._run.note(Retrieved(facts))
        return facts

    async def _converse(self, messages: list[Message], intended_call: ToolCall | None) -> None:
        """Calls tools and the model in turn until the model has nothing more to ask for."""
        if intended_call is not None:
            messages += await self._call_tools(0, (intended_call,))
        for step in range(1, self._agent.max_steps + 1):
            said, calls = await self._ask(step, messages)
            if not calls:
                return
            messages.append(Message(Role.ASSISTANT, said, calls))
            messages += (await self._call_tools(step, calls))[1:]
        raise RunLimitReached(f"the run used all of its {self._agent.max_steps} steps")

    async def _ask(self, step: int, messages: list[Message]) -> tuple[str, tuple[ToolCall, ...]]:
        """One call of the model: what it said and the tools it asks for."""
        left = self._agent.max_tokens - self.usage.completion_tokens
        if left <= 0:
            raise RunLimitReached(f"the run used all of its {self._agent.max_tokens} tokens")
        offered = self._agent.model_chooses_tools and self._bad_calls < _MAX_BAD_CALLS
        tools = tuple(self._agent.tools.values()) if offered else ()
        max_tokens = min(left, self._agent.max_answer_tokens)
        said: list[str] = []
        calls: tuple[ToolCall, ...] = ()
        self.usage.model_calls += 1
        chunks = self._model.chat(self._model_name, messages, tools, max_tokens, self._agent.temperature)
        async with aclosing(chunks):
            async for chunk in chunks:
                self.usage.prompt_tokens += chunk.prompt_tokens
                self.usage.completion_tokens += chunk.completion_tokens
                if chunk.text:
                    said.append(chunk.text)
                    await self._say(chunk.text)
                calls += chunk.tool_calls
        if calls and not tools and not self.answer:
            raise ModelFailed("the model asked for tools that it may not use, and said nothing")
        asked = calls[:_MAX_CALLS] if tools else ()
        return "".join(said), tuple(_named(step, index, call) for index, call in enumerate(asked))

    async def _call_tools(self, step: int, calls: tuple[ToolCall, ...]) -> list[Message]:
        """Runs tools, one after the other: what the assistant asked for, and what each answered."""
        gained = [Message(Role.ASSISTANT, "", calls)]
        for index, call in enumerate(calls):
            await self._run.append(ToolStarted(call))
            finished = await self._call_tool(call, idempotency_key(step, index, call))
            self._run.note(*self._degraded(finished), finished)
            gained.append(Message(Role.TOOL, finished.result_json, tool_call_id=call.id))
        self.gained += gained
        return gained

    async def _call_tool(self, call: ToolCall, key: str) -> ToolFinished:
        try:
            tool = self._schemas.check(call)
            result = await self._tools.execute(self._agent, call, self._run.turn.run_id, key, tool.timeout_s)
        except ToolResponseTooLarge as error:
            self.usage.tool_calls += 1
            return ToolFinished(call, Outcome.ERROR, _told(error), error.reason)
        except _REFUSALS as error:
            self._bad_calls += isinstance(error, InvalidToolArguments | ToolNotFound)
            return ToolFinished(call, Outcome.REFUSED, _told(error), error.reason)
        except ServiceError as error:
            return ToolFinished(call, Outcome.ERROR, _told(error), error.reason)
        self.usage.tool_calls += 1
        return _finished(call, result)

    @staticmethod
    def _degraded(finished: ToolFinished) -> list[Event]:
        """A tool that fails is the tool's affair; that toolexec itself does not answer is told."""
        gone = finished.reason in {ServiceUnavailable.reason, DeadlineExceeded.reason}
        return [Degraded("toolexec", finished.reason)] if gone else []


def _named(step: int, index: int, call: ToolCall) -> ToolCall:
    """A call that the model asked for, within what history and log take. What is cut no longer fits, and is refused.

    The id is ours: those of a model may repeat.
    """
    named = ToolCall(f"call_{step}_{index}", call.tool[:_LONGEST_NAME] or "?", call.arguments_json[:_LONGEST_TEXT])
    return repaired(named)


def _finished(call: ToolCall, result: ToolResult) -> ToolFinished:
    if len(result.result_json) > _LONGEST_TEXT:
        return ToolFinished(
            call, Outcome.ERROR, '{"error": "the result is too long to be read"}', "TOOL_RESPONSE_TOO_LARGE"
        )
    if result.is_error:
        return ToolFinished(call, Outcome.ERROR, result.result_json, "TOOL_ERROR")
    return ToolFinished(call, Outcome.OK, result.result_json)


def _told(error: ServiceError) -> str:
    """What the model is told of a call that did not come to a result."""
    return json.dumps({"error": error.message, "fields": error.fields} if error.fields else {"error": error.message})
