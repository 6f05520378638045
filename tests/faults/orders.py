"""Runs of `clerk`, who orders an item and says so, or pays: how clients begin them, and what makes them whole."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from redis.asyncio import Redis

from myriad.common.v1 import common_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_event_pb2, run_pb2
from services.dev.conversation import TIMEOUT_S, Conversation
from services.dev.edge import Edge, orchestrator_at
from services.dev.login import DEVELOPER
from services.dev.transcript import Transcript
from services.kit.clients import Client
from services.kit.errors import ServiceError
from services.kit.interceptors.identity import metadata_of
from services.kit.keys import SessionKeys
from tests.faults.rig import Rig
from tests.support.client import kinds, sim

if TYPE_CHECKING:
    from tests.faults.served import Served

FIRST = "One moment. "
WORDS = tuple(f"word{number} " for number in range(20))
ANSWER = FIRST + "".join(WORDS)

COMES_S = 60.0
"""An order comes to any point within this time."""

AGAIN = 20
"""How often a call with one reply is made again while nobody answers it."""


def asked(item: str, delay_ms: int = 5, tool: str = "order") -> str:
    """What to say for `clerk` to order an item by a tool, and then to say so, word by word."""
    return sim(
        text=FIRST,
        tool_calls=[{"name": tool, "arguments": {"item": item}}],
        then={"tokens": len(WORDS), "delay_ms": delay_ms},
    )


@dataclass
class Order:
    """A run that orders an item."""

    item: str
    text: str
    session: str
    tool: str = "order"
    seen: Transcript = field(default_factory=Transcript)
    task: asyncio.Task[None] | None = None

    @property
    def run(self) -> int:
        """Its number in its session."""
        return int(self.seen.run_id.rpartition(".")[2])

    @property
    def keys(self) -> SessionKeys:
        """Where the store has what is of its session."""
        return SessionKeys(DEVELOPER, self.session)

    async def end(self) -> "Order":
        """Returns once the client has seen the run's last event."""
        assert self.task is not None
        await self.task
        return self


class Customers:
    """Clients of ours, in front of Envoy: as the command line is one."""

    def __init__(self, rig: "Rig | Served", client: Client, memory: Any) -> None:
        self.rig = rig
        self.client = client
        self.stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        self._memory = memory

    async def order(self, delay_ms: int = 5, agent: str = "clerk", tool: str = "order") -> Order:
        """Begins an order, in a session of its own; its client reads it."""
        item = uuid.uuid4().hex
        conversation = await self.until_answered(lambda: Conversation.begin(self.client, agent=agent, session_id=None))
        order = Order(item, asked(item, delay_ms, tool), conversation.session_id, tool)
        order.task = asyncio.create_task(_read(conversation, order))
        return order

    async def deliver(self) -> Order:
        """Begins an order by the tool that runs in the background."""
        return await self.order(tool="deliver")

    async def create(self, delay_ms: int = 5) -> Order:
        """Begins an order that a worker is to do, in a session of its own; its client reads it."""
        item = uuid.uuid4().hex
        conversation = await self.until_answered(
            lambda: Conversation.begin(self.client, agent="clerk", session_id=None)
        )
        order = Order(item, asked(item, delay_ms), conversation.session_id)
        request = run_pb2.CreateRunRequest(session_id=order.session, input=order.text, request_id=item)
        created = await self.until_answered(lambda: self.client.unary(self.stub.CreateRun, request, timeout=TIMEOUT_S))
        order.seen.run_id = created.run.run_id
        order.task = asyncio.create_task(self.read_on(order))
        return order

    async def happened(self, order: Order) -> int:
        """The pid of the process that has come to the point that is armed.

        Raises:
            AssertionError: none has; says how far this order has come.
        """
        try:
            return await self.rig.points.happened(COMES_S)
        except TimeoutError:
            raise AssertionError(f"nobody came there: {kinds(order.seen.events)} {order.task}") from None

    async def ask_to_pay(self) -> Order:
        """Begins a payment, which waits until somebody says that it may be made."""
        item = uuid.uuid4().hex
        text = sim(tool_calls=[{"name": "pay", "arguments": {"item": item}}], then={"text": "Paid."})
        session = (await Conversation.begin(self.client, agent="clerk", session_id=None)).session_id
        order = Order(item, text, session)
        request = run_pb2.RunTurnRequest(session_id=session, input=text, on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE)
        async for event in self.client.stream(self.stub.RunTurn, request, timeout=TIMEOUT_S):
            order.seen.add(event)
        return order

    async def pay(self) -> Order:
        """Begins a payment, and says that it may be made."""
        order = await self.ask_to_pay()
        await self.answer(order, approve=run_pb2.Approve())
        return order

    async def answer(self, order: Order, **response: Any) -> None:
        """Answers what a run has asked last."""
        token = order.seen.events[-1].approval_required.approval_token
        request = run_pb2.RespondToRunRequest(run_id=order.seen.run_id, approval_token=token, **response)
        await self.client.unary(self.stub.RespondToRun, request, timeout=TIMEOUT_S)

    async def read_on(self, order: Order) -> None:
        """Reads a run from where its client is to where it ends or waits."""
        before = order.seen.last_sequence
        while order.seen.last_sequence == before or not _rests(order.seen.events[-1]):
            watch = run_pb2.WatchRunRequest(run_id=order.seen.run_id, after_sequence=order.seen.last_sequence)
            try:
                async for event in self.client.stream(self.stub.WatchRun, watch, timeout=TIMEOUT_S):
                    order.seen.add(event)
            except ServiceError:
                await asyncio.sleep(0.5)

    async def until_answered(self, call: Callable[[], Any]) -> Any:
        """Makes a call that may be repeated until somebody answers it."""
        for _ in range(AGAIN):
            try:
                return await call()
            except ServiceError:
                await asyncio.sleep(0.5)
        return await call()

    async def watched(self, order: Order) -> list[run_event_pb2.RunEvent]:
        """A run's whole log, read anew."""
        request = run_pb2.WatchRunRequest(run_id=order.seen.run_id)
        return [event async for event in self.client.stream(self.stub.WatchRun, request, timeout=TIMEOUT_S)]

    async def is_over(self, order: Order) -> bool:
        """Whether a run has ended. False when nobody says so."""
        request = run_pb2.GetRunRequest(run_id=order.seen.run_id)
        try:
            run = (await self.client.unary(self.stub.GetRun, request, timeout=1.0)).run
        except ServiceError:
            return False
        return run.HasField("end_time")

    async def history(self, order: Order) -> list[common_pb2.Message]:
        """All that was said in a run's session."""
        request = memory_pb2.GetHistoryRequest(session_id=order.session, max_messages=200)
        call = dict(metadata=metadata_of(DEVELOPER, None), timeout=TIMEOUT_S, wait_for_ready=True)
        reply = await self._memory.GetHistory(request, **call)
        return list(reply.messages)

    async def check(self, order: Order) -> None:
        """Checks that a run is as if nothing had happened to anyone.

        Raises:
            AssertionError: it is not: says what.
        """
        events = order.seen.events
        assert order.seen.state == "completed", str(events[-1])
        assert [event.sequence for event in events] == list(range(1, len(events) + 1)), "its log has holes"
        assert await self.watched(order) == events, "its log is another now"
        assert order.seen.answer == events[-1].completed.answer == ANSWER, "its answer is another"
        assert {kinds(events).count(step) for step in ("started", "understood", "retrieved")} <= {0, 1}, kinds(events)
        assert told(events) == [
            "started clerk",
            f'call {order.tool} {{"item": "{order.item}"}}',
            'OK {"ordered":true}',
            f"completed {ANSWER}",
        ], kinds(events)
        assert [said(message) for message in await self.history(order)] == [
            f"USER {order.text}",
            f"ASSISTANT  {order.tool}",
            'TOOL {"ordered":true}',
            f"ASSISTANT {ANSWER}",
        ]
        assert len(self.rig.ledger.keys(order.item)) == 1, "not one effect"


def _rests(event: run_event_pb2.RunEvent) -> bool:
    return event.WhichOneof("event") in {"completed", "failed", "cancelled", "approval_required"}


async def _read(conversation: Conversation, order: Order) -> None:
    async for event in conversation.say(order.text):
        order.seen.add(event)


def told(events: list[run_event_pb2.RunEvent]) -> list[str]:
    """What a log says of the run itself, not of what happened to those who worked on it."""
    lines = []
    for event in events:
        match event.WhichOneof("event"):
            case "started":
                lines.append(f"started {event.started.agent.name}")
            case "tool_started":
                call = event.tool_started.call
                lines.append(f"call {call.tool} {call.arguments_json}")
            case "tool_finished":
                outcome = run_event_pb2.ToolOutcome.Name(event.tool_finished.outcome).removeprefix("TOOL_OUTCOME_")
                lines.append(f"{outcome} {event.tool_finished.result_json}")
            case "completed":
                lines.append(f"completed {event.completed.answer}")
            case "failed" | "cancelled" as ended:
                lines.append(ended)
    return lines


def said(message: common_pb2.Message) -> str:
    """A message of the history on one line."""
    role = common_pb2.Role.Name(message.role).removeprefix("ROLE_")
    return " ".join([f"{role} {message.content}", *(call.tool for call in message.tool_calls)])


@asynccontextmanager
async def customers_of(rig: Rig) -> AsyncIterator[Customers]:
    """Clients of a stack."""
    async with (
        orchestrator_at(Edge(rig.stack.address("envoy"), DEVELOPER)) as client,
        grpc.aio.insecure_channel(rig.stack.address("memory")) as channel,
    ):
        yield Customers(rig, client, memory_pb2_grpc.MemoryServiceStub(channel))


@asynccontextmanager
async def store_of(rig: Rig) -> AsyncIterator[Any]:
    """The store of a stack, to do harm in."""
    async with Redis.from_url(rig.stack.store_url(), protocol=2) as redis:
        yield redis
