"""An orchestrator core on fakes: scripted nlu, retrieval, tools and model, and the in-memory store."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from services.kit.call import Call, Principal, enter
from services.orchestrator.adapters.inmemory import InMemoryTurns
from services.orchestrator.codec import EventCodec
from services.orchestrator.config import Config
from services.orchestrator.core.runs import Runs
from services.orchestrator.domain import Agent, Chunk, ToolResult, Understanding

ALICE = Principal("acme", "alice")
MALLORY = Principal("acme", "mallory")
EVE = Principal("evil", "alice")
SESSION = "s1"


@dataclass
class ScriptedNlu:
    understanding: Understanding = field(default_factory=Understanding)
    error: Exception | None = None
    calls: int = 0

    async def analyze(self, agent, text):
        self.calls += 1
        if self.error:
            raise self.error
        return self.understanding


@dataclass
class ScriptedRetrieval:
    facts: tuple = ()
    error: Exception | None = None
    embeddings: list = field(default_factory=list)

    async def search(self, knowledge, text, embedding):
        self.embeddings.append(embedding)
        if self.error:
            raise self.error
        return self.facts


@dataclass
class ScriptedTools:
    results: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)
    hang: bool = False
    cut: bool = False

    async def execute(self, agent, call, run_id, key, timeout):
        self.calls.append((call, run_id, key))
        if self.hang:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cut = True
                raise
        result = self.results[call.tool]
        if isinstance(result, Exception):
            raise result
        return ToolResult(*result)


@dataclass
class ScriptedModel:
    """Plays one script a call: a list of chunks, pauses (float seconds), errors; the last script repeats."""

    scripts: list = field(default_factory=lambda: [["Hello."]])
    asked: list = field(default_factory=list)
    offered: list = field(default_factory=list)
    stopped: int = 0

    async def chat(self, model, messages, tools, max_tokens, temperature):
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(list(messages))
        self.offered.append(tuple(tool.name for tool in tools))
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, str):
                    yield Chunk(step)
                else:
                    yield step
            yield Chunk(prompt_tokens=10, completion_tokens=5)
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise


@dataclass
class OneAgent:
    agent: Agent

    async def latest(self, name):
        return self.agent


class Bench:
    """Runs on fakes, and what a test needs to drive them."""

    def __init__(self, agent=None, config=None, lease_s=30.0):
        self.store = InMemoryTurns(lease_s)
        self.store.add_session(ALICE, SESSION, "aura")
        self.nlu, self.retrieval, self.tools = ScriptedNlu(), ScriptedRetrieval(), ScriptedTools()
        self.model = ScriptedModel()
        self.agents = OneAgent(agent or Agent("aura", 3, "You help."))
        self.runs = self.another(config)

    def another(self, config=None):
        """Another process on the same store."""
        return Runs(
            memory=self.store,
            agents=self.agents,
            nlu=self.nlu,
            retrieval=self.retrieval,
            tools=self.tools,
            model=self.model,
            run_log=self.store,
            codec=EventCodec(),
            config=config or Config(coalesce_s=0.02, heartbeat_s=0.05),
        )

    def agent_is(self, **changes):
        self.agents.agent = replace(self.agents.agent, **changes)

    async def begin(self, text="hello", request_id="", session=SESSION, principal=ALICE):
        act_as(principal)
        return await self.runs.begin(principal, session, text, request_id, lambda run_id: None)

    async def events(self, run_id, after=0, principal=ALICE, runs=None, heartbeats=False):
        seen = []
        async for entry in (runs or self.runs).watch(principal, run_id, after):
            if entry is not None:
                seen.append(pb.RunEvent.FromString(entry))
            elif heartbeats:
                seen.append("heartbeat")
        return seen

    async def turn(self, text="hello", **kw):
        """One whole turn: its events."""
        return await self.events(await self.begin(text, **kw))


def act_as(principal):
    """Makes the current task work for a principal, as the identity interceptor does."""
    enter(Call(method="test", metadata={}, deadline=None, peer="test", principal=principal))


def kinds(events):
    return [event.WhichOneof("event") for event in events]


def deltas(events):
    return "".join(event.text_delta.text for event in events if event.WhichOneof("event") == "text_delta")


@asynccontextmanager
async def bench(**kw):
    made = Bench(**kw)
    yield made
    await made.runs.close()
