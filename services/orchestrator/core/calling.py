"""Calls of tools: run at once, begun in the background, or put before somebody who must answer first."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

import orjson
import structlog

from services.kit.amounts import Amounts
from services.kit.errors import (
    ApprovalInvalid,
    ApprovalRequired,
    Cancelled,
    DeadlineExceeded,
    ExecutionInProgress,
    Internal,
    InvalidToolArguments,
    ResourceExhausted,
    ServiceError,
    ServiceUnavailable,
    StoreUnavailable,
    ToolNotAllowed,
    ToolNotFound,
    ToolResponseTooLarge,
    ToolTimeout,
    ToolUnavailable,
)
from services.kit.run_ids import read_run_id
from services.orchestrator.domain.agent import Agent, SideEffect, Tool, ToolCall
from services.orchestrator.domain.log import ApprovalReason, Outcome, ToolFinished
from services.orchestrator.domain.log import ApprovalRequired as Ask
from services.orchestrator.domain.run import Answer, Waiting
from services.orchestrator.domain.turn import ToolResult
from services.orchestrator.ports.services import Tools

log = structlog.get_logger(__name__)

T = TypeVar("T")

_REFUSALS = (ApprovalRequired, InvalidToolArguments, ToolNotAllowed, ToolNotFound, ResourceExhausted)
_LONGEST_TEXT = 16_000
"""Characters of a result."""

_AWAY = (ServiceUnavailable, StoreUnavailable, DeadlineExceeded, ExecutionInProgress)
"""What toolexec is when it, or its store, was away for a moment; what came of the call is not known."""

_UNSURE = (*_AWAY, Cancelled, Internal, ToolUnavailable)
"""As which calls fail that may have been made: a tool that took too long, or broke off its answer, is among them."""

_AWAY_S = 10.0
"""Beyond a tool's own time, seconds that toolexec may be away, or hold a call that it was killed in to be running."""

_RETRY_S = 0.25
_TOKEN_BYTES = 32
_CUT = frozenset({"EXECUTION_INTERRUPTED", "EXECUTION_CANCELLED", *(each.reason for each in (*_UNSURE, ToolTimeout))})
"""Why tools in the background end that were begun, and about which nothing else is known."""


class OutcomeUnknown(Exception):
    """A tool with side effects was begun under an approval, and what became of it is not known."""


class Calling:
    """The tool calls of one run."""

    def __init__(
        self, tools: Tools, agent: Agent, run_id: str, wake: str, answer_s: float, now: Callable[[], float]
    ) -> None:
        """Calls an agent's tools.

        Args:
            tools: Runs them.
            agent: Whose tools.
            run_id: The run.
            wake: Queue in which the run is put when it has what it waited for.
            answer_s: Seconds that somebody has to answer.
            now: The store's time, seconds since 1970.
        """
        self._tools = tools
        self._agent = agent
        self._run_id = run_id
        self._wake = wake
        self._answer_s = answer_s
        self._now = now

    async def execute(self, tool: Tool, call: ToolCall, key: str, approval: str) -> ToolFinished:
        """Runs a tool, and says how that ended.

        Raises:
            OutcomeUnknown: it has side effects, and may have run under this approval.
        """

        async def work() -> ToolResult:
            return await self._tools.execute(self._agent, call, self._run_id, key, tool.timeout_s, approval)

        once = tool.repeatable or bool(approval)
        try:
            return _finished(call, await (_insistently(work, tool.timeout_s + _AWAY_S) if once else work()))
        except ServiceError as error:
            return _not_done(call, error, approval)

    async def start(self, call: ToolCall, key: str, approval: str) -> ToolFinished | None:
        """Begins a tool in the background. Returns how it ended, when it has or could not be begun.

        Raises:
            OutcomeUnknown: it has side effects, and may have run under this approval, or do so now.
        """

        async def work() -> ToolResult | None:
            return await self._tools.start(self._agent, call, self._run_id, key, approval)

        try:
            result = await _insistently(work, _AWAY_S)
        except ServiceError as error:
            return _not_done(call, error, approval)
        return _finished(call, result) if result else None

    async def stop(self, call: ToolCall, key: str) -> None:
        """Stops a tool in the background."""
        try:
            await self._tools.stop(call, self._run_id, key)
        except ServiceError as error:
            log.warning("tool not stopped", run_id=self._run_id, tool=call.tool, reason=error.reason)

    async def give_up(self, call: ToolCall, key: str) -> ToolFinished | None:
        """Stops a tool in the background that nobody heard of in time. Returns how it ended, if it had, unheard."""
        await self.stop(call, key)
        try:
            result = await self._tools.result(call, self._run_id, key)
        except ServiceError as error:
            log.warning("tool not asked for", run_id=self._run_id, tool=call.tool, reason=error.reason)
            return None
        return _finished(call, result) if result else None

    def wait_for(self, tool: Tool, call: ToolCall) -> Waiting:
        """What a run waits for that has begun a tool in the background."""
        return Waiting(f"tool:{call.id}", tool.timeout_s + _AWAY_S, self._wake)

    def ask(self, call: ToolCall, key: str, reason: ApprovalReason, remaining: Amounts) -> tuple[Waiting, Ask]:
        """Puts a call before somebody: what the run waits for, and the event that says so.

        Who answers is told what was `remaining` of the run's budgets.

        The token is shown in the event only. What is kept is its digest, with all that it is good for: this call of
        this tool with these arguments, which the key stands for, once, until it expires.
        """
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        approval = hashlib.sha256(token.encode()).hexdigest()
        expires_ms = int((self._now() + self._answer_s) * 1000)
        _, run = read_run_id(self._run_id)
        good_for = {"run": run, "tool": call.tool, "key": key, "state": "open"}  # the store adds when it expires
        good_for["client"] = reason is ApprovalReason.CLIENT_TOOL
        if remaining:  # as text, since the store would round numbers
            good_for["remaining"] = orjson.dumps(list(remaining)).decode()
        waiting = Waiting("answer", self._answer_s, self._wake, approval, orjson.dumps(good_for))
        return waiting, Ask(call, token, reason, expires_ms)


async def _insistently(work: Callable[[], Awaitable[T]], within_s: float) -> T:
    """Makes a call that runs once, however often it is made: again while toolexec is away. Raises as the last."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + within_s
    while True:
        try:
            return await work()
        except _AWAY as error:
            if isinstance(error, ToolTimeout) or clock() > give_up:
                raise
            wait_s = error.retry_after or _RETRY_S
        await asyncio.sleep(wait_s)


def answered(call: ToolCall, tool: Tool, answer: Answer) -> ToolFinished:
    """How a call ended that somebody else answered: the client, a tool in the background, or a person by saying no.

    Raises:
        OutcomeUnknown: a tool with side effects was begun in the background, and cut; or its process is gone.
    """
    if answer.result_json:
        return _finished(call, ToolResult(answer.result_json, answer.is_error))
    if answer.tool_call_id and tool.side_effect is SideEffect.SIDE_EFFECT and answer.reason in _CUT:
        raise OutcomeUnknown
    if answer.tool_call_id:
        return ToolFinished(call, Outcome.ERROR, _error("the tool could not be run"), answer.reason or "TOOL_ERROR")
    told = "it was turned down" + (f": {answer.reason}" if answer.reason else "")
    return ToolFinished(call, Outcome.REFUSED, _error(told), "APPROVAL_DENIED")


def unanswered(call: ToolCall, tool: Tool, *, begun: bool) -> ToolFinished:
    """How a call ended that nobody answered in time; or, `begun` in the background, of which nobody heard in time.

    Raises:
        OutcomeUnknown: a tool with side effects was begun.
    """
    if begun and tool.side_effect is SideEffect.SIDE_EFFECT:
        raise OutcomeUnknown
    if begun:
        return ToolFinished(call, Outcome.ERROR, _error("the tool did not answer in time"), "TOOL_TIMEOUT")
    return ToolFinished(call, Outcome.REFUSED, _error("nobody answered in time"), "APPROVAL_EXPIRED")


def failed(call: ToolCall, error: ServiceError) -> ToolFinished:
    """How a call ended that did not come to a result."""
    told = json.dumps({"error": error.message, "fields": error.fields} if error.fields else {"error": error.message})
    refused = isinstance(error, _REFUSALS) and not isinstance(error, ToolResponseTooLarge)
    return ToolFinished(call, Outcome.REFUSED if refused else Outcome.ERROR, told, error.reason)


def _not_done(call: ToolCall, error: ServiceError, approval: str) -> ToolFinished:
    """As `failed`, where that is how the call ended. Raises OutcomeUnknown: under its approval it may have run."""
    if isinstance(error, ApprovalInvalid) or (approval and isinstance(error, _UNSURE)):
        raise OutcomeUnknown
    return failed(call, error)


def _finished(call: ToolCall, result: ToolResult) -> ToolFinished:
    if len(result.result_json) > _LONGEST_TEXT:
        return ToolFinished(call, Outcome.ERROR, _error("the result is too long to be read"), "TOOL_RESPONSE_TOO_LARGE")
    if result.is_error:
        return ToolFinished(call, Outcome.ERROR, result.result_json, "TOOL_ERROR")
    return ToolFinished(call, Outcome.OK, result.result_json)


def _error(text: str) -> str:
    return json.dumps({"error": text})
