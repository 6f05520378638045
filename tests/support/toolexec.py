"""Processes of toolexec over fakes that they share, as replicas share a store."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from services.kit.breaker import Breakers, Rules
from services.kit.call import Principal
from services.kit.effects import effect_key
from services.kit.queue import CALLBACK_QUEUE, TOOL_QUEUE
from services.kit.queue_inmemory import InMemoryQueue, InMemoryQueues
from services.kit.telemetry import open_telemetry
from services.toolexec.adapters.clock import SystemClock
from services.toolexec.adapters.inmemory import (
    FixedClock,
    InMemoryApprovals,
    InMemoryHttpCaller,
    InMemoryResultStore,
    InMemoryToolSource,
)
from services.toolexec.adapters.inmemory_background import InMemoryCallbacks, InMemoryExecutions, InMemoryRuns
from services.toolexec.core import callbacks
from services.toolexec.core.background import BackgroundTools
from services.toolexec.core.background_work import BackgroundWork
from services.toolexec.core.callbacks import CallbackSender
from services.toolexec.core.consumer import Consumer
from services.toolexec.core.execution import TOOLS, Execution, Executor, Runners
from services.toolexec.core.functions import Function
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.core.signing import Signer
from services.toolexec.domain import AgentTools, CallKey, FunctionCall, HttpResponse, SideEffect, Tool
from services.toolexec.ports import Clock
from services.toolexec.servicer import ToolExecServicer

ANN = Principal("acme", "ann", frozenset({"clerk"}))
SECRET = "a secret of the operator's that is long enough"
IDLE_S = 0.25


def approval(token: str) -> str:
    """As a token is known to the store."""
    return hashlib.sha256(token.encode()).hexdigest()


def call_key(tool: str, arguments: str = "{}", run_id: str = "s1.1", step: int = 1) -> CallKey:
    """The key of a call, as the orchestrator makes it."""
    return CallKey(run_id, tool, effect_key(step, 0, tool, arguments))


def execution(tool: str, arguments: str = "{}", run_id: str = "s1.1", **changes: Any) -> Execution:
    """A call of a tool of the agent `aura`."""
    key = call_key(tool, arguments, run_id)
    return replace(Execution("aura", 0, tool, arguments, run_id, key.idempotency_key, None), **changes)


def a_tool(name: str, side_effect: SideEffect = SideEffect.READ, **changes: Any) -> Tool:
    """A tool that calls the function of its own name."""
    made = Tool(name, "does it", {"type": "object"}, side_effect, 10.0, frozenset(), FunctionCall(name))
    return replace(made, **changes)


@dataclass
class Shared:
    """What outlives a process."""

    clock: Clock = field(default_factory=SystemClock)
    source: InMemoryToolSource = field(default_factory=InMemoryToolSource)
    queues: InMemoryQueues = field(default_factory=InMemoryQueues)
    runs: InMemoryRuns = field(default_factory=InMemoryRuns)
    outcomes: InMemoryCallbacks = field(default_factory=InMemoryCallbacks)

    def __post_init__(self) -> None:
        self.store = InMemoryResultStore(self.clock)
        self.approvals: InMemoryApprovals = self.store.approvals
        self.executions = InMemoryExecutions(self.clock, self.approvals)

    def add(self, *tools: Tool) -> None:
        """Makes these the tools of acme's agent `aura`."""
        self.source.put("acme", AgentTools("aura", 3, {each.name: each for each in tools}))

    def approve(self, key: CallKey, token: str = "t1", state: str = "approved", lasts_s: float = 60.0) -> str:
        """What a person said of a call of ann's. Returns how the store knows the token."""
        self.approvals.put(ANN, key, approval(token), state, lasts_s)
        return approval(token)


class Process:
    """One process: what `app.build` wires, over fakes."""

    def __init__(
        self,
        shared: Shared,
        functions: Mapping[str, Function] | None = None,
        *,
        answers: Mapping[str, HttpResponse | None] | None = None,
        endpoints: Mapping[str, str] | None = None,
        private: frozenset[str] = frozenset(),
        at_once: int = 8,
        per_tool: int = 8,
        per_tenant: int = 8,
        rules: callbacks.Rules | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.shared = shared
        self.queue = InMemoryQueue(shared.queues, IDLE_S)
        self.caller = InMemoryHttpCaller(answers or {}, private)
        runners = Runners(
            functions or {},
            HttpTools(self.caller, endpoints or {}, frozenset({443})),
            Breakers(TOOLS, Rules(failures=1_000)),
        )
        self.executor = Executor(shared.source, runners, shared.store, Schemas(), Gate(per_tool, at_once), shared.clock)
        self.work = BackgroundWork(
            self.executor, shared.executions, shared.runs, Gate(per_tool, at_once), Gate(per_tenant, at_once)
        )
        self.background = BackgroundTools(self.executor, shared.executions, self.queue, self.work)
        self.callbacks = CallbackSender(
            self.caller,
            shared.outcomes,
            signer or Signer({}, [SECRET]),
            rules or callbacks.Rules(frozenset({443}), attempts=3, first_delay_s=0.01, timeout_s=0.1),
            shared.clock,
        )
        self.servicer = ToolExecServicer(self.executor, self.background, self.callbacks)
        self.consumers = [
            Consumer(self.queue, name, work, at_once=at_once, idle_s=IDLE_S, telemetry=open_telemetry("test", "", 0.0))
            for name, work in ((TOOL_QUEUE, self.work.work), (CALLBACK_QUEUE, self.callbacks.work))
        ]

    async def __aenter__(self) -> "Process":
        for consumer in self.consumers:
            consumer.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        for consumer in self.consumers:
            await consumer.stop()
        await self.queue.close()

    def die(self) -> None:
        """Stops as a killed process does: nothing is given back."""
        loops = [loop for consumer in self.consumers for loop in consumer._loops]
        tasks = [task for consumer in self.consumers for task in consumer._at_work]
        for consumer in self.consumers:
            consumer._settle = _nothing  # type: ignore[method-assign]
        self.work._executions = _Gone()  # type: ignore[assignment]
        looking = [self.work._looking] if self.work._looking else []
        for each in (*loops, *tasks, *looking):
            each.cancel()


class _Gone:
    """A store that a dead process does not reach."""

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return _nothing


async def _nothing(*_arguments: object, **_named: object) -> Any:
    return None


def at_noon() -> FixedClock:
    """A clock that a test moves."""
    return FixedClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
