"""One turn: understand, find facts, call tools, ask the model, until there is an answer or a limit."""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace

from services.kit import failpoints
from services.kit.errors import (
    FailedPrecondition,
    ModelFailed,
    RunLimitReached,
    ServiceError,
)
from services.kit.failpoints import Point
from services.kit.hints import DEFAULT_QUEUE
from services.orchestrator.config import Config
from services.orchestrator.core import prompt
from services.orchestrator.core.arguments import repaired
from services.orchestrator.core.calling import Calling
from services.orchestrator.core.intended import Asked, intended
from services.orchestrator.core.live import LiveRun
from services.orchestrator.core.spending import Extend, Price, Spending
from services.orchestrator.core.toolsteps import ToolSteps
from services.orchestrator.domain.agent import Agent, Message, Role, ToolCall
from services.orchestrator.domain.log import (
    Degraded,
    Queued,
    Retrieved,
    Routed,
    Started,
    TextDelta,
    ToolFinished,
    Understood,
    Used,
)
from services.orchestrator.domain.run import Answer, Record
from services.orchestrator.domain.turn import Citation, Progress, Understanding, Usage
from services.orchestrator.ports.services import Model, Retrieval, Tools

_MAX_BAD_CALLS = 3
_MAX_CALLS = 16
"""Tools that one answer of the model may ask for."""
_LONGEST_NAME = 64
_LONGEST_TEXT = 16_000
"""Characters of a call's arguments."""
_LONGEST_ANSWER = 262_144
"""Bytes of a whole answer: what one message of the history takes."""


class TurnLoop:
    """The work of one run. There is one agent loop, and this is it.

    It says after each step how far it has come. Another process that is given this goes on from there: the model is
    not asked again for what it has said, and a tool is called again under the same key only.
    """

    def __init__(
        self,
        run: LiveRun,
        agent: Agent,
        record: Record,
        progress: Progress,
        answer: Answer | None,
        *,
        retrieval: Retrieval,
        tools: Tools,
        model: Model,
        remind: Callable[[float, str], Awaitable[None]],
        executed: Callable[[ToolFinished], None],
        extend: Extend,
        now: Callable[[], float],
        prices: Mapping[str, Price],
        config: Config,
    ) -> None:
        """Prepares the turn of `run` in which a user asks an agent what the record says, from `progress` on.

        `answer` is what the run waited for; `remind` has someone look after the run in so many seconds;
        `executed` is told of each tool call that ended; `extend` has more set apart of what budgets limit; `now` is the
        store's time, seconds since 1970.
        """
        self._began = time.monotonic() - progress.usage.elapsed_s
        self._at = progress
        self._saying: list[str] = []
        self._room = _LONGEST_ANSWER - len(progress.said.encode())
        self._run = run
        self._agent = agent
        self._text = record.text
        # Its worker may have been faster than who was to log that it waits.
        self._waited = (Queued(0, record.queue),) if record.queue else ()
        self._retrieval = retrieval
        self._model = model
        self._model_name = agent.model or config.models[0]
        self._models = config.models + (config.gpu_models if record.queue == "GPU" else ())
        self._spending = Spending(agent, run.turn, prices.get(self._model_name, Price()), extend, now)
        calling = Calling(tools, agent, run.turn.run_id, record.queue or DEFAULT_QUEUE, config.answer_s, now)
        self._steps = ToolSteps(
            run,
            agent,
            progress,
            answer,
            calling,
            self._spending,
            usage=lambda: self.usage,
            remind=remind,
            executed=executed,
        )

    @property
    def progress(self) -> Progress:
        """How far the turn has come."""
        return self._at

    @property
    def usage(self) -> Usage:
        """What the run has used so far."""
        usage = self._at.usage
        usage.elapsed_s = time.monotonic() - self._began
        usage.remaining = self._spending.remaining(usage)
        return usage

    @property
    def spending(self) -> Spending:
        """What the run may use."""
        return self._spending

    @property
    def answer(self) -> str:
        """The answer, as far as it goes."""
        return self._at.said + "".join(self._saying)

    @property
    def gained(self) -> list[Message]:
        """What the conversation gained before the answer: what the user said, tool calls and what tools answered.

        What the model said beside its calls is part of the answer, and stands there.
        """
        return [Message(Role.USER, self._text), *(_without_words(message) for message in self._at.messages)]

    async def work(self, analysis: Awaitable[Understanding]) -> None:
        """Brings the turn to its answer. What it says and uses is in `answer`, `gained` and `usage`, however it ends.

        Args:
            analysis: What the user means, perhaps still on its way; not awaited when it is known.

        Raises:
            FailedPrecondition: the agent names a model that the operator has not named.
            RunLimitReached: the run used all it was allowed to.
            BudgetExhausted: the budgets do not cover its next step.
            ServiceError: the model or the store does not answer.
        """
        at = self._at
        if self._model_name not in self._models:
            raise FailedPrecondition(f"the agent names a model that is not served: {self._model_name}")
        if not at.begun:
            self._run.note(Started(self._agent.name, self._agent.revision), *self._waited)
            at.begun = True
            self._run.checkpoint(at)
        if at.understanding is None:
            at.understanding = await self._understand(analysis)
            self._run.checkpoint(at)
        await failpoints.reached(Point.UNDERSTOOD)
        if at.facts is None:
            at.facts = await self._find_facts(at.understanding)
            self._run.checkpoint(at)
        await failpoints.reached(Point.RETRIEVED)
        if at.step == 0 and at.calls is None:
            asked = intended(self._agent, at.understanding, self._run.turn.history)
            if isinstance(asked, Asked):
                self._run.note(Routed("", f"missing argument {asked.parameter}"))
                return await self._say(asked.question)
            self._run.note(Routed(self._model_name, "the agent's model" if self._agent.model else "default model"))
            self._ask_tools("", (asked,) if asked else ())
        await self._converse(prompt.opening(self._agent, at.facts, self._run.turn.history, self._text))

    async def abandon(self) -> None:
        """Stops what runs in the background for a turn that is stopped."""
        await self._steps.abandon()

    async def _say(self, text: str) -> None:
        """Takes the next piece of the answer. The first is shown at once: the reader sees that something comes."""
        self._room -= len(text.encode())
        if self._room < 0:
            raise RunLimitReached(f"the answer is longer than {_LONGEST_ANSWER} bytes")
        first = not self.answer
        self._saying.append(text)
        if first:
            await self._run.append(TextDelta(text))
        else:
            self._run.note(TextDelta(text))

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

    async def _converse(self, opening: list[Message]) -> None:
        """Calls tools and the model in turn until the model has nothing more to ask for."""
        at = self._at
        while True:
            await self._steps.take()
            if at.step and not at.calls:  # the model has said all that it had to say
                return
            if at.step == self._agent.max_steps:
                raise RunLimitReached(f"the run used all of its {self._agent.max_steps} steps")
            said, calls = await self._ask_model(at.step + 1, [*opening, *at.messages])
            await failpoints.reached(Point.SAID)
            at.step += 1
            if at.step > 1:
                self._run.note(Used(replace(self.usage)))
            self._ask_tools(said, calls)

    def _ask_tools(self, said: str, calls: tuple[ToolCall, ...]) -> None:
        """Takes what the model, or the intent, asks for; nothing: the answer is whole."""
        at = self._at
        at.calls, at.answered = calls, 0
        at.said, self._saying = self.answer, []
        if calls:
            at.messages += (Message(Role.ASSISTANT, said, calls),)
        self._run.checkpoint(at)

    async def _ask_model(self, step: int, messages: list[Message]) -> tuple[str, tuple[ToolCall, ...]]:
        """One call of the model: what it said and the tools it asks for."""
        at = self._at
        offered = self._agent.model_chooses_tools and at.bad_calls < _MAX_BAD_CALLS
        tools = tuple(self._agent.tools.values()) if offered else ()
        usage, before = self.usage, replace(at.usage)
        await self._spending.cover_model(usage, messages, tools)
        max_tokens = self._spending.before_model(usage, messages, tools)
        said: list[str] = []
        calls: tuple[ToolCall, ...] = ()
        usage.model_calls += 1
        chunks = self._model.chat(self._model_name, messages, tools, max_tokens, self._agent.temperature)
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    usage.prompt_tokens += chunk.prompt_tokens
                    usage.completion_tokens += chunk.completion_tokens
                    if chunk.text:
                        said.append(chunk.text)
                        await self._say(chunk.text)
                    calls += chunk.tool_calls
        finally:
            self._spending.after_model(usage, before, messages, tools, said)
        if calls and not tools and not self.answer:
            raise ModelFailed("the model asked for tools that it may not use, and said nothing")
        asked = calls[:_MAX_CALLS] if tools else ()
        return "".join(said), tuple(_named(step, index, call) for index, call in enumerate(asked))


def _without_words(message: Message) -> Message:
    return replace(message, content="") if message.role is Role.ASSISTANT else message


def _named(step: int, index: int, call: ToolCall) -> ToolCall:
    """A call that the model asked for, within what history and log take. What is cut no longer fits, and is refused.

    The id is ours: those of a model may repeat.
    """
    named = ToolCall(f"call_{step}_{index}", call.tool[:_LONGEST_NAME] or "?", call.arguments_json[:_LONGEST_TEXT])
    return repaired(named)
