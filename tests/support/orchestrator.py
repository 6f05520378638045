"""An orchestrator core on the fakes it ships; services reached within the process; a principal to act as."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

from myriad.orchestrator.v1 import run_event_pb2
from services.kit.app import App, Kit
from services.kit.call import Call, Principal, enter
from services.kit.clients import INPROC
from services.kit.queue_inmemory import InMemoryQueue, InMemoryQueues
from services.kit.telemetry import open_telemetry
from services.orchestrator.adapters.inmemory import InMemoryTurns
from services.orchestrator.adapters.inmemory_callbacks import InMemoryCallbackStore
from services.orchestrator.adapters.inmemory_dead_letters import InMemoryDeadLetters
from services.orchestrator.adapters.inmemory_events import InMemoryEvents, InMemoryRunEnds
from services.orchestrator.adapters.inmemory_owners import InMemoryOwners
from services.orchestrator.adapters.inmemory_services import (
    InMemoryAgents,
    InMemoryModel,
    InMemoryNlu,
    InMemoryRetrieval,
    InMemoryTools,
)
from services.orchestrator.codec import EventCodec
from services.orchestrator.config import Config
from services.orchestrator.core.callbacks import Callbacks
from services.orchestrator.core.events import EventBus
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.core.runs import Runs
from services.orchestrator.domain.agent import Agent, ToolCall
from services.orchestrator.domain.run import Request
from services.orchestrator.domain.turn import Chunk
from services.orchestrator.event_codec import read_end

ALICE = Principal("acme", "alice")
MALLORY = Principal("acme", "mallory")
EVE = Principal("evil", "alice")
SESSION = "s1"


class Hanging:
    """A servicer of any service, whose methods never answer: one was `asked`, and `cut` by its caller."""

    def __init__(self):
        self.asked = asyncio.Event()
        self.cut = asyncio.Event()

    def __getattr__(self, name):
        async def hang(request, context):
            self.asked.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cut.set()
                raise

        return hang


def served(name, add_to=None):
    """A client of a service that this process serves; without `add_to`, of one that nobody serves."""
    kit = Kit(open_telemetry("test", "", 0.0), None)
    if add_to:
        kit.registry(App(name, add_to))
    return kit.network.client(name, INPROC)


class Bench:
    """Runs on fakes, and what a test needs to drive them."""

    def __init__(self, agent=None, config=None, lease_s=30.0):
        self.store = InMemoryTurns(lease_s)
        self.dead_letters = InMemoryDeadLetters()
        self.queue = InMemoryQueue(InMemoryQueues(), 30.0)
        self.owners, self.gone = {}, set()
        self.telemetry = open_telemetry("test", "", 0.0)
        self.events_told, self.run_ends = InMemoryEvents(), InMemoryRunEnds()
        self.bus = EventBus(self.events_told, self.telemetry.events, flush_s=0.005)
        self.store.add_session(ALICE, SESSION, "aura")
        self.nlu, self.retrieval, self.tools = InMemoryNlu(), InMemoryRetrieval(), InMemoryTools()
        self.model, self.agents = InMemoryModel(), InMemoryAgents()
        self.agent = agent or Agent("aura", 3, "You help.")
        self.agent_is()
        self.called_back = InMemoryCallbackStore()
        self.callbacks = Callbacks(self.called_back, self.queue, self.tools)
        self.runs = self.another(config)

    def another(self, config=None, **other):
        """Another process on the same store, save for the ports that are `other`."""
        ports = dict(
            memory=self.store,
            agents=self.agents,
            nlu=self.nlu,
            retrieval=self.retrieval,
            tools=self.tools,
            model=self.model,
            run_log=self.store,
            codec=EventCodec(),
            events=RunEvents(self.bus, self.run_ends, read_end, self.callbacks.send_again),
            owners=InMemoryOwners(self.owners, self.gone, f"process-{len(self.owners)}"),
            notices=self.store.notices,
            queue=self.queue,
            callbacks=self.callbacks,
            dead_letters=self.dead_letters,
            metrics=self.telemetry.queues,
        )
        return Runs(**ports | other, config=config or Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=1.0))

    def agent_is(self, **changes):
        self.agent = replace(self.agent, **changes)
        self.agents.put(ALICE.tenant, self.agent)

    async def begin(self, text="hello", request_id="", session=SESSION, principal=ALICE, runs=None, **request):
        act_as(principal)
        asked = Request(session, text, request_id, **request)
        return await (runs or self.runs).begin(principal, asked, lambda run_id: None)

    async def events(self, run_id, after=0, principal=ALICE, runs=None, heartbeats=False):
        seen = []
        async for entry in (runs or self.runs).watch(principal, run_id, after):
            if entry is not None:
                seen.append(run_event_pb2.RunEvent.FromString(entry))
            elif heartbeats:
                seen.append("heartbeat")
        return seen

    @staticmethod
    def calls(tool, arguments="{}"):
        """A piece of a model's answer that asks for a tool."""
        return Chunk(tool_calls=(ToolCall("", tool, arguments),))

    async def turn(self, text="hello", **kw):
        """One whole turn: its events."""
        return await self.events(await self.begin(text, **kw))


def act_as(principal, seconds=None):
    """Makes the current task work for a principal, as the identity interceptor does; for `seconds`, or any time."""
    deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
    enter(Call(method="test", metadata={}, deadline=deadline, peer="test", principal=principal))


def kinds(events):
    return [event.WhichOneof("event") for event in events]


def deltas(events):
    return "".join(event.text_delta.text for event in events if event.WhichOneof("event") == "text_delta")


@asynccontextmanager
async def bench(**kw):
    made = Bench(**kw)
    yield made
    await made.runs.close()
    await made.bus.close()
