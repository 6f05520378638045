"""The tool calls of a turn: each begun once, answered by whoever can, and kept with what came of it."""

from collections.abc import Awaitable, Callable
from typing import NoReturn

from services.kit import failpoints
from services.kit.effects import effect_key
from services.kit.errors import DeadlineExceeded, InvalidToolArguments, ServiceUnavailable, ToolNotFound
from services.kit.failpoints import Point
from services.orchestrator.core.arguments import Schemas
from services.orchestrator.core.calling import Calling, OutcomeUnknown, answered, failed, unanswered
from services.orchestrator.core.live import LiveRun
from services.orchestrator.core.spending import Spending
from services.orchestrator.domain.agent import Agent, Message, Role, SideEffect, ToolCall
from services.orchestrator.domain.log import ApprovalReason, Degraded, Event, Outcome, ToolFinished, ToolStarted
from services.orchestrator.domain.run import Answer, Waiting
from services.orchestrator.domain.turn import Progress, Usage

_BEGUN = {Outcome.OK, Outcome.ERROR}
"""How calls end that may have been run."""


class Parked(Exception):
    """The run waits: it has its session still, but needs no process."""


class ToolSteps:
    """What a turn does between two calls of the model."""

    def __init__(
        self,
        run: LiveRun,
        agent: Agent,
        progress: Progress,
        answer: Answer | None,
        calling: Calling,
        spending: Spending,
        *,
        usage: Callable[[], Usage],
        remind: Callable[[float, str], Awaitable[None]],
        executed: Callable[[ToolFinished], None],
    ) -> None:
        """Takes the steps of `run`.

        Args:
            run: Its log.
            agent: Whose tools.
            progress: How far the turn has come; this moves it on.
            answer: What the run waited for.
            calling: Calls the tools.
            spending: Says whether one more is covered.
            usage: What the run has used up to now.
            remind: Has someone look after the run in so many seconds, that waits for this until then.
            executed: Told of each call that ended.
        """
        self._run, self._agent, self._at, self._answer = run, agent, progress, answer
        self._calling, self._spending, self._usage = calling, spending, usage
        self._remind, self._executed = remind, executed
        self._schemas = Schemas(agent.tools)

    async def take(self) -> None:
        """Runs what was asked for, one after the other, and keeps what each answered."""
        at = self._at
        for index, call in enumerate(at.calls or ()):
            if index < at.answered:
                continue
            finished = await self._call_tool(call, effect_key(at.step, index, call.tool, call.arguments_json))
            await failpoints.reached(Point.AFTER_EFFECT)
            at.usage.tool_calls += finished.outcome in _BEGUN
            self._run.note(*self._degraded(finished), finished)
            self._executed(finished)
            at.messages += (Message(Role.TOOL, finished.result_json, tool_call_id=call.id),)
            at.answered, at.started, at.approval = index + 1, False, ""
            self._run.checkpoint(at)
            await failpoints.reached(Point.TOLD)
            self._run.end_step()

    async def _call_tool(self, call: ToolCall, key: str) -> ToolFinished:
        """One call. Raises Parked when the run must wait for somebody or something."""
        at = self._at
        try:
            if at.waits_for == call.id and self._answer is None:  # it ran for too long, or word of its end was lost
                finished = await self._calling.give_up(call, key)
                if finished is not None:
                    at.waits_for = ""
                    return finished
            finished = self._take_answer(call) if at.waits_for else None
            if finished is not None:
                return finished
            tool = self._schemas.check(call)
            await self._spending.cover_tool(self._usage())
            self._spending.before_tool(self._usage())
            if tool.needs_answer and not at.approval:
                reason = ApprovalReason.CLIENT_TOOL if tool.client else ApprovalReason.SIDE_EFFECT
                await self._ask(call, key, reason)
            await self._begin_call(call, background=tool.background)
            with self._run.calling():
                if tool.background:
                    finished = await self._calling.start(call, key, at.approval)
                else:
                    finished = await self._calling.execute(tool, call, key, at.approval)
            if finished is None:
                await self._park(call.id, self._calling.wait_for(tool, call))
            return finished
        except OutcomeUnknown:
            await self._ask(call, key, ApprovalReason.OUTCOME_UNKNOWN)
        except (InvalidToolArguments, ToolNotFound) as error:
            await self._begin_call(call)
            at.bad_calls += 1
            return failed(call, error)

    async def _begin_call(self, call: ToolCall, *, background: bool = False) -> None:
        """Says that a call is begun, once, before it is."""
        at = self._at
        if at.started:
            return
        self._run.note(ToolStarted(call, background))
        tool = self._agent.tools.get(call.tool)
        if tool is not None and tool.side_effect is not SideEffect.READ:
            at.effects += (call,)
        at.started = True
        self._run.checkpoint(at)
        await failpoints.reached(Point.BEFORE_INTENT)
        await self._run.append()
        await failpoints.reached(Point.AFTER_INTENT)

    def _take_answer(self, call: ToolCall) -> ToolFinished | None:
        """How a call ended that the run waited for. None: it may run now."""
        at, answer, tool = self._at, self._answer, self._agent.tools[call.tool]
        begun = at.waits_for == call.id  # else it waited for somebody
        at.waits_for, self._answer = "", None
        if answer is None:
            return unanswered(call, tool, begun=begun)
        if answer.approved:
            at.approval = answer.approval
            return None
        return answered(call, tool, answer)

    async def _ask(self, call: ToolCall, key: str, reason: ApprovalReason) -> NoReturn:
        """Puts a call before somebody, and waits."""
        waiting, event = self._calling.ask(call, key, reason, self._usage().remaining)
        await self._park(waiting.approval, waiting, event)

    async def _park(self, waits_for: str, waiting: Waiting, *events: Event) -> NoReturn:
        self._at.waits_for, self._at.approval = waits_for, ""
        self._at.usage = self._usage()  # up to now
        await self._remind(waiting.wait_s, waits_for)
        await self._run.park(waiting, self._at, *events)
        raise Parked

    async def abandon(self) -> None:
        """Stops what runs in the background for a turn that is stopped."""
        at = self._at
        for index, call in enumerate(at.calls or ()):
            if at.waits_for == call.id:
                await self._calling.stop(call, effect_key(at.step, index, call.tool, call.arguments_json))

    @staticmethod
    def _degraded(finished: ToolFinished) -> list[Event]:
        """A tool that fails is the tool's affair; that toolexec itself does not answer is told."""
        gone = finished.reason in {ServiceUnavailable.reason, DeadlineExceeded.reason}
        return [Degraded("toolexec", finished.reason)] if gone else []
