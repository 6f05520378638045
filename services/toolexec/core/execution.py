"""Runs one tool call: who may, with what arguments, how often, for how long."""

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from services.kit import failpoints
from services.kit.breaker import FAIR_S, Breaker, Breakers, Circuit
from services.kit.call import Principal
from services.kit.effects import is_key_of
from services.kit.errors import (
    ApprovalInvalid,
    ApprovalRequired,
    ExecutionInProgress,
    FailedPrecondition,
    StoreUnavailable,
    ToolNotAllowed,
    ToolNotFound,
    ToolRunsAtClient,
    ToolTimeout,
    ToolUnavailable,
)
from services.kit.failpoints import Point
from services.toolexec.core import json_text
from services.toolexec.core.answer import Answer, problem
from services.toolexec.core.arguments import read_arguments
from services.toolexec.core.functions import Function, FunctionFailed
from services.toolexec.core.gate import Gate, ToolKey
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.domain import (
    AgentTools,
    CallKey,
    ClientCall,
    Finished,
    FunctionCall,
    HttpCall,
    InProgress,
    Outcome,
    SideEffect,
    Tool,
)
from services.toolexec.ports import Clock, ResultStore, ToolSource

KEEP_RESULT_S = 86_400.0
MAX_TIMEOUT_S = 60.0
_SETTLE_S = 5.0
"""Beyond a call's timeout, the time its end may take to be written."""

_MARGIN_S = 0.02
"""Of the caller's deadline, kept for the way back."""

TOOLS = Circuit(
    "tool",
    ToolUnavailable,
    "the tool does not answer",
    (ToolTimeout, ToolUnavailable),
    named=False,
    label=lambda name: name.partition("/")[2],
)
"""The tools of agents: each has a breaker of its own, so nobody's tool stops another's. No label names a tenant."""


@dataclass(frozen=True, slots=True)
class Execution:
    """A call to make. `remaining`: seconds until the caller gives up; None: it does not."""

    agent: str
    revision: int
    tool: str
    arguments_json: str
    run_id: str
    idempotency_key: str
    remaining: float | None
    approval: str = ""
    """SHA-256 of the token that a person approved it with, in hexadecimal digits. Empty: nobody has."""


@dataclass(frozen=True, slots=True)
class Executed:
    """What came of it. `replayed`: the outcome is an earlier call's; nothing ran."""

    outcome: Outcome
    replayed: bool


@dataclass(frozen=True, slots=True)
class Runners:
    """What tools run on."""

    functions: Mapping[str, Function]
    http: HttpTools
    breakers: Breakers = field(default_factory=lambda: Breakers(TOOLS))


class Executor:
    """Lists and runs the tools of agents."""

    def __init__(
        self, source: ToolSource, runners: Runners, store: ResultStore, schemas: Schemas, gate: Gate, clock: Clock
    ) -> None:
        """Opens nothing."""
        self._source = source
        self._runners = runners
        self._store = store
        self._schemas = schemas
        self._gate = gate
        self._clock = clock

    async def tools(self, principal: Principal, agent: str, revision: int) -> list[Tool]:
        """The tools the principal may use, in the agent's order.

        Raises:
            AgentNotFound: no such agent or revision.
        """
        found = await self._source.get(principal, agent, revision)
        return [tool for tool in found.tools.values() if _may(principal, tool)]

    async def execute(self, principal: Principal, execution: Execution) -> Executed:
        """Runs a tool. What only reads is run each time; of the rest, one call per key runs, and its result is kept.

        Raises:
            AgentNotFound, ToolNotFound: there is none.
            ToolNotAllowed: the principal has none of the tool's roles.
            InvalidToolArguments: the arguments do not fit.
            ToolRunsAtClient: it is the client's to run.
            ApprovalRequired: the tool has side effects, and nobody has approved the call.
            ApprovalInvalid: the approval is of another call, has expired, or was used.
            ResourceExhausted: too many calls run.
            ExecutionInProgress: the same key runs.
            FailedPrecondition: the tool is wrong: its schema, its URL, a function that is not installed; or it runs in
                the background.
            ToolTimeout, ToolResponseTooLarge: it did not work.
            ToolUnavailable: it cannot be reached, or failed several times in a row of late.
        """
        made = await self.prepare(principal, execution)
        if made.tool.background:
            raise FailedPrecondition(f"the tool {made.tool.name} runs in the background")
        approval = approval_of(made.tool, execution)
        with self._gate.enter(made.name):
            if made.tool.side_effect is SideEffect.READ:
                return Executed(await self.run(principal, made), replayed=False)
            return await self._run_once(principal, made, approval)

    async def prepare(self, principal: Principal, execution: Execution) -> "Prepared":
        """A call that may be made, as far as the tool and its arguments go. Raises what `execute` says of these."""
        found = await self._source.get(principal, execution.agent, execution.revision)
        tool = _allowed(principal, found, execution.tool)
        arguments = read_arguments(execution.arguments_json)
        schema_key = (principal.tenant, found.agent, found.revision, tool.name)
        await self._schemas.check(schema_key, tool.parameters, arguments)
        key = CallKey(execution.run_id, tool.name, execution.idempotency_key)
        limit = tool.timeout if tool.background else min(tool.timeout, MAX_TIMEOUT_S)
        if execution.remaining is not None and not tool.background:
            limit = max(min(limit, execution.remaining - _MARGIN_S), 0.0)
        name = (principal.tenant, found.agent, tool.name)
        breaker = self._runners.breakers.of("/".join(quote(part, "") for part in name))
        return Prepared(tool, arguments, key, limit, breaker, name, found.revision)

    async def _run_once(self, principal: Principal, made: "Prepared", approval: str) -> Executed:
        key, running_for = made.key, made.limit + _SETTLE_S
        await failpoints.reached(Point.BEFORE_TOOL_INTENT)
        if approval:
            begun = await self._store.begin_approved(principal, key, approval, running_for)
        else:
            begun = await self._store.begin(principal, key, running_for)
        if isinstance(begun, Finished):
            return Executed(begun.outcome, replayed=True)
        if isinstance(begun, InProgress):
            raise ExecutionInProgress("the same call is running", retry_after=1.0)
        try:
            await failpoints.reached(Point.AFTER_TOOL_INTENT)
            outcome = await self.run(principal, made)
        except BaseException:
            with suppress(StoreUnavailable):  # the key frees itself soon
                await self._store.abandon(principal, key, begun.ticket)
            raise
        await failpoints.reached(Point.BEFORE_TOOL_RESULT)
        # The effect has happened. Its result is worth more than its record: the tool may be repeated with this key.
        with suppress(StoreUnavailable):
            await self._store.finish(principal, key, begun.ticket, outcome, KEEP_RESULT_S)
        await failpoints.reached(Point.AFTER_TOOL_RESULT)
        return Executed(outcome, replayed=False)

    async def run(self, principal: Principal, made: "Prepared") -> Outcome:
        """Makes a call, and keeps nothing of it. Raises what `execute` says of a tool that did not work."""
        started = self._clock.monotonic()
        tool = made.tool
        with made.breaker.attempt(min(tool.timeout, FAIR_S)) as attempt:
            try:
                async with asyncio.timeout(made.limit):
                    answer = await self._answer(principal, made)
            except TimeoutError:
                raise ToolTimeout(f"the tool {tool.name} took longer than {made.limit:.3g} s") from None
            if answer.is_down:
                attempt.failed()
        return Outcome(answer.result_json, answer.is_error, self._clock.monotonic() - started)

    async def _answer(self, principal: Principal, made: "Prepared") -> Answer:
        call = made.tool.call
        if isinstance(call, HttpCall):
            outside_key = _outside_key(principal, made.key)
            return await self._runners.http.run(made.tool.name, call, made.arguments, outside_key)
        if isinstance(call, FunctionCall):
            return await self._call_function(call.function, made.arguments)
        raise ToolRunsAtClient(f"the tool {made.tool.name} is the client's to run")

    async def _call_function(self, name: str, arguments: dict[str, Any]) -> Answer:
        function = self._runners.functions.get(name)
        if function is None:
            raise FailedPrecondition(f"the operator has not installed the function {name}")
        try:
            return Answer(json_text.write(await function(arguments)))
        except FunctionFailed as error:
            return problem(str(error))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call that may be made, with the seconds it may take."""

    tool: Tool
    arguments: dict[str, Any]
    key: CallKey
    limit: float
    breaker: Breaker
    name: ToolKey
    revision: int


def approval_of(tool: Tool, execution: Execution) -> str:
    """The approval that a call needs, which is yet to be used up. Empty: it needs none.

    Raises:
        ApprovalRequired: it needs one, and has none.
        ApprovalInvalid: the call's key, which is what was approved, is not that of this tool with these arguments.
    """
    if tool.side_effect is not SideEffect.SIDE_EFFECT:
        return ""
    if not execution.approval:
        raise ApprovalRequired(f"the tool {tool.name} has side effects: a person must approve the call first")
    if not is_key_of(execution.idempotency_key, tool.name, execution.arguments_json):
        raise ApprovalInvalid("the approval is of a call with other arguments")
    return execution.approval


def _may(principal: Principal, tool: Tool) -> bool:
    return not tool.roles or not tool.roles.isdisjoint(principal.roles)


def _allowed(principal: Principal, found: AgentTools, name: str) -> Tool:
    tool = found.tools.get(name)
    if tool is None:
        raise ToolNotFound("the agent has no such tool")
    if not _may(principal, tool):
        raise ToolNotAllowed("the caller has none of the roles the tool asks for")
    if isinstance(tool.call, ClientCall):
        raise ToolRunsAtClient(f"the tool {name} is the client's to run")
    return tool


def _outside_key(principal: Principal, key: CallKey) -> str:
    # Unique among all tenants, and tells the outside nothing of tenant, user or session.
    parts = (principal.tenant, principal.user, key.run_id, key.tool, key.idempotency_key)
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
