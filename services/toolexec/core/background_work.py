"""Runs tools in the background: one claimed call at a time, until it has ended and its run knows."""

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass
from types import MappingProxyType

import orjson
import structlog

from services.kit import failpoints
from services.kit.call import Principal, current_traceparent, work_as
from services.kit.errors import (
    DeadlineExceeded,
    ExecutionNotFound,
    Internal,
    Overloaded,
    ResourceExhausted,
    RunNotFound,
    RunNotWaiting,
    ServiceError,
    Unavailable,
)
from services.kit.failpoints import Point
from services.kit.queue import Claimed, Item, Unreadable
from services.toolexec.core import json_text
from services.toolexec.core.execution import KEEP_RESULT_S, Execution, Executor, Prepared
from services.toolexec.core.gate import Gate
from services.toolexec.domain import Background, BackgroundCall, CallKey, Outcome, State
from services.toolexec.ports import Executions, Runs

log = structlog.get_logger(__name__)

LOOK_S = 0.2
"""How often a process looks whether what it runs was stopped elsewhere."""

_ATTEMPTS = 4
"""A call whose process was lost so often may be what they are lost to."""
_FULL_S = 1.0
_KEEP_S, _KEEP_AGAIN_S = 30.0, 0.25
_TELL_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""A quick tool may have its result before its run has begun to wait: pauses until it is told again."""
_TELL_AGAIN_S = 10.0
_MOST_TELLINGS = 30
_LONGEST_S = 100_000.0
_PASSING = (Unavailable, DeadlineExceeded, Overloaded)
_WORDS = MappingProxyType(
    {
        "EXECUTION_INTERRUPTED": "the tool was interrupted, and what became of it is not known",
        "EXECUTION_CANCELLED": "the tool was stopped",
    }
)


@dataclass(frozen=True, slots=True)
class Task:
    """An item of the queue: which call to work on, and as whom."""

    principal: Principal
    key: CallKey
    agent: str

    def item(self) -> Item:
        """As it is queued. The same call is the same item."""
        principal, key = self.principal, self.key
        names = (principal.tenant, principal.user, key.run_id, key.tool, key.idempotency_key)
        body = orjson.dumps([*names, self.agent, sorted(principal.roles)])
        name = hashlib.sha256(orjson.dumps(names)).hexdigest()
        return Item(name, principal.tenant, body, traceparent=current_traceparent())

    @staticmethod
    def read(body: bytes) -> "Task":
        """The task in an item.

        Raises:
            ValueError: it is none.
        """
        tenant, user, run_id, tool, idempotency_key, agent, roles = orjson.loads(body)
        return Task(Principal(tenant, user, frozenset(roles)), CallKey(run_id, tool, idempotency_key), agent)


@dataclass(frozen=True, slots=True)
class _Running:
    principal: Principal
    key: CallKey
    call: "asyncio.Task[Outcome]"


class BackgroundWork:
    """What this process runs in the background."""

    def __init__(self, executor: Executor, executions: Executions, runs: Runs, tools: Gate, tenants: Gate) -> None:
        """Runs nothing yet. The gates bound what runs of one tool, and of one tenant."""
        self._executor = executor
        self._executions = executions
        self._runs = runs
        self._tools = tools
        self._tenants = tenants
        self._running: dict[str, _Running] = {}
        self._looking: asyncio.Task[None] | None = None

    def stop(self, principal: Principal, key: CallKey) -> None:
        """Cuts a call, if it runs here. The store says already that it was stopped."""
        for each in self._running.values():
            if each.key == key and _who(each.principal) == _who(principal):
                each.call.cancel()

    async def work(self, claimed: Claimed) -> float | None:
        """Brings one call to its end and tells its run. Returns after how many seconds to try again; None: all is done.

        Raises:
            Unreadable: it is none.
            ServiceError: the store does not answer, or the agents cannot be had just now.
        """
        try:
            task = Task.read(claimed.item.body)
        except (ValueError, TypeError):
            raise Unreadable("the item is no tool in the background") from None
        principal, key = task.principal, task.key
        work_as(principal, name="background tool", timeout=_LONGEST_S)
        try:
            with (
                self._tenants.enter((principal.tenant, "", "")),
                self._tools.enter((principal.tenant, task.agent, key.tool)),
            ):
                found = await self._end(principal, key)
        except ExecutionNotFound:
            return None
        except ResourceExhausted:
            return _FULL_S
        if found.state is State.RUNNING:
            return None  # another process has it
        return await self._tell(principal, key, found, claimed.deliveries)

    async def _end(self, principal: Principal, key: CallKey) -> Background:
        """Runs a call, unless it has ended or is not to be begun again. Returns what became of it."""
        found = await self._executions.read(principal, key)
        if found.state is not State.RUNNING:
            return found
        made = await self._prepare(principal, key, found.call)
        ticket = secrets.token_hex(8)
        await failpoints.reached(Point.BEFORE_TOOL_INTENT)
        found = await self._executions.take(principal, key, ticket, _ATTEMPTS, KEEP_RESULT_S)
        if found.state is not State.RUNNING:
            return found
        try:
            await failpoints.reached(Point.AFTER_TOOL_INTENT)
            ended = await self._run(principal, key, made, ticket)
        except asyncio.CancelledError:
            await self._executions.release(principal, key, ticket)
            raise
        await failpoints.reached(Point.BEFORE_TOOL_RESULT)
        await self._keep(principal, key, ticket, ended)
        await failpoints.reached(Point.AFTER_TOOL_RESULT)
        return await self._executions.read(principal, key)

    async def _prepare(self, principal: Principal, key: CallKey, call: BackgroundCall) -> Prepared | ServiceError:
        """The call, or why it cannot be made. What may pass is raised: nothing was begun."""
        execution = Execution(
            call.agent, call.revision, key.tool, call.arguments_json, key.run_id, key.idempotency_key, None
        )
        try:
            return await self._executor.prepare(principal, execution)
        except _PASSING:
            raise
        except ServiceError as error:
            return error

    async def _run(
        self, principal: Principal, key: CallKey, made: Prepared | ServiceError, ticket: str
    ) -> tuple[State, Outcome, str]:
        """What came of a call. What comes of one that was stopped is nobody's affair."""
        if isinstance(made, ServiceError):
            return _failed(made)
        call = asyncio.create_task(self._executor.run(principal, made))
        self._running[ticket] = _Running(principal, key, call)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            await asyncio.wait({call})
        finally:
            del self._running[ticket]
            call.cancel()
            await asyncio.wait({call})
        error = None if call.cancelled() else call.exception()
        if error is None and not call.cancelled():
            return State.DONE, call.result(), ""
        if error is not None and not isinstance(error, ServiceError):
            log.error("background tool broke", tool=key.tool, exc_info=error)
        return _failed(error if isinstance(error, ServiceError) else Internal("internal error"))

    async def _keep(self, principal: Principal, key: CallKey, ticket: str, ended: tuple[State, Outcome, str]) -> None:
        """Writes what came of a call, unless it was stopped. Waits for a store that is away: nobody else knows it."""
        give_up = time.monotonic() + _KEEP_S
        while True:
            try:
                await self._executions.finish(principal, key, ticket, *ended, KEEP_RESULT_S)
                return
            except Unavailable:
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(_KEEP_AGAIN_S)

    async def _look(self) -> None:
        """Cuts what was stopped elsewhere, or is run by another process by now."""
        while self._running:
            await asyncio.sleep(LOOK_S)
            looked = list(self._running.items())
            try:
                stopped = await self._executions.stopped([(run.principal, run.key, ticket) for ticket, run in looked])
            except ServiceError as error:
                log.warning("background tools not looked after", reason=error.reason)
                continue
            for (_, run), is_stopped in zip(looked, stopped, strict=True):
                if is_stopped:
                    run.call.cancel()

    async def _tell(self, principal: Principal, key: CallKey, found: Background, deliveries: int) -> float | None:
        response = _response(found)
        for pause_s in (*_TELL_S, None):
            try:
                await self._runs.wake(principal, key.run_id, found.call.tool_call_id, response)
                return None
            except RunNotFound:
                return None
            except RunNotWaiting:
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
        if deliveries >= _MOST_TELLINGS:
            log.warning("result not told", run_id=key.run_id, tool=key.tool)
            return None
        return _TELL_AGAIN_S


def _who(principal: Principal) -> tuple[str, str]:
    return principal.tenant, principal.user


def _failed(error: ServiceError) -> tuple[State, Outcome, str]:
    return State.FAILED, Outcome(json_text.write({"error": error.message}), is_error=True, duration=0.0), error.reason


def _response(found: Background) -> bytes:
    """What the run is told."""
    outcome = found.outcome
    words = json_text.write({"error": _WORDS.get(found.reason, "the tool could not be run")})
    return orjson.dumps(
        {
            "tool_call_id": found.call.tool_call_id,
            "result_json": outcome.result_json if outcome else words,
            "is_error": outcome.is_error if outcome else True,
            "reason": found.reason,
        }
    )
