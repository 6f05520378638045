"""A whole stack with a proxy on each line that is to be cut, traced to a collector that never answers, and watched.

Its agent `desk` needs every part: nlu understands, retrieval finds facts, toolexec calls the shop, and the scripted
model answers. Its agent `clerk` orders and pays by tools that keep a ledger.

Orchestrators, workers, toolexec and memory are test builds: they have failpoints, which do nothing until a test arms
one.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
from google.protobuf import json_format
from redis.asyncio import Redis

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.orchestrator.v1 import run_event_pb2
from myriad.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from services.dev import processes
from services.dev.part import Part
from services.dev.plan import Options
from services.dev.stack import Stack, running_stack
from services.dev.state import PartState, State
from services.kit import topology
from services.kit.call import Principal
from services.kit.interceptors.identity import metadata_of
from tests.faults.ledger import DELIVER, ORDER, PAY, WAIT, Ledger
from tests.faults.lines import LINKS, Link, put_between, with_variables
from tests.support import failing
from tests.support.cgroup import descriptors
from tests.support.client import Face, kinds, metric, put_agent, sim
from tests.support.failing import Arming
from tests.support.http_server import HttpServer, answer, running_http_server
from tests.support.load import OK, Load
from tests.support.metrics import Metrics, metrics_at
from tests.support.proxy import Proxy, running_proxy
from tests.support.waiting import until

Events = list[run_event_pb2.RunEvent]

REPLICAS: Mapping[str, int] = {"orchestrator": 2, "memory": 2}
"""What Envoy balances, and what a service does."""

IN_FLIGHT = "myriad_calls_in_flight"
TOOL_TIMEOUT_S = 1.0
RETRY_S = 10.0
"""A run of the queue is tried again after so long; a model that was killed is back before the last time."""

SETTLED_S = 10.0
CALM_S = 1.5
_POOLED = ("orchestrator", "memory", "toolexec")
_POOL = 32
"""Connections to the store that a process keeps open once it has needed them."""

_SLACK = _POOL + 8
"""File descriptors a process may have more than at first: its pool may have been empty then."""

_KEPT = 16
"""Connections to a tool that toolexec keeps for a while: so many customers called it at once."""

CALLS_SHOP = sim(tool_calls=[{"name": "look", "arguments": {"item": "lamp"}}], then={"text": "It is on its way."})
"""What to say so that a turn of `desk` calls its tool, then answers."""

_DESK = {
    "intents": [{"name": "delivery", "examples": ["where is my parcel", "when does it come"]}],
    "knowledge": {"collections": ["desk-facts"], "top_k": 1},
    "model": {"model": "sim_llm", "tool_choice": "TOOL_CHOICE_MODEL"},
    "tools": [
        {
            "name": "look",
            "description": "Looks an item up.",
            "side_effect": "SIDE_EFFECT_READ",
            "timeout": f"{TOOL_TIMEOUT_S:g}s",
            "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
            "http": {"method": "HTTP_METHOD_GET", "endpoint": "shop", "url": "/items/{item}"},
        }
    ],
}
_CLERK = {**_DESK, "tools": [ORDER, DELIVER, PAY, WAIT]}
_FAILING = ("orchestrator", "toolexec", "worker", "memory")
_OPERATOR = metadata_of(Principal("dev", "operator", frozenset({"admin"})), None)


@dataclass
class Rig:
    """A stack, and what stands between its parts."""

    stack: Stack
    shop: HttpServer
    links: dict[Link, Proxy]
    collector: Proxy
    """Where the services send their spans: it accepts, and never answers."""
    points: Arming
    ledger: Ledger
    at_rest: dict[str, int] = field(default_factory=dict)
    """File descriptors of each part when nothing was under way."""

    def pid(self, part: str) -> int:
        """Of the process that runs a part now."""
        return self.stack.state.parts[part].pid

    def part(self, name: str) -> PartState:
        """How a part is now."""
        return self.stack.state.parts[name]

    def replicas(self, service: str) -> list[str]:
        """The parts that run a service; another part is its own."""
        return [name for name in self.stack.state.parts if name.partition("-")[0] == service]

    @contextmanager
    def cut_off(self, part: str) -> Iterator[None]:
        """While the block runs a part is a black hole to the others, and they to it: nothing passes, nobody is told."""
        lines = [line for link, line in self.links.items() if part in link]
        assert lines, f"no line of {part} can be cut"
        for line in lines:
            line.stall()
        try:
            yield
        finally:
            for line in lines:
                line.resume()

    async def metrics(self, service: str) -> Metrics:
        """What all replicas of a service show together."""
        names = self.replicas(service)
        shown = await asyncio.gather(*(metrics_at(self.stack.address(f"{name}_metrics")) for name in names))
        return Metrics([sample for each in shown for sample in each.samples])

    async def idle(self, *services: str) -> bool:
        """Whether none of the services has a call under way."""
        shown = await asyncio.gather(*map(self.metrics, services))
        return all(each.sum(IN_FLIGHT) == 0 for each in shown)

    async def ready_again(self, part: str, restarts: int, seconds: float = 60.0) -> float:
        """Returns once a part that was killed is ready; how long that took."""

        async def ready() -> bool:
            state = self.part(part)
            return state.restarts > restarts and state.state is State.READY

        return await until(ready, seconds)

    async def settled(self) -> None:
        """Returns once nothing is left of what was under way.

        Raises:
            AssertionError: something is; says what.
        """
        left: list[str] = []

        async def nothing_left() -> bool:
            left[:] = await self._leftovers()
            return not left

        try:
            await until(nothing_left, SETTLED_S)
        except AssertionError:
            raise AssertionError(f"left over: {left}") from None

    async def rest(self) -> None:
        """Takes down what the processes hold while nothing is under way: what `settled` compares with."""
        self.at_rest = {name: descriptors(self.pid(name)) for name in self.stack.state.parts}

    async def _leftovers(self) -> list[str]:
        if any(state.state is not State.READY for state in self.stack.state.parts.values()):
            return ["a part is not ready"]
        found = [f"{n:g} scripts of the model" for n in [await metric(self.stack, "myriad_sim_running")] if n]
        async with Redis.from_url(self.stack.store_url(), protocol=2) as redis:
            found += [f"lease {key.decode()}" async for key in redis.scan_iter("*:lease", count=1000)]
        known = {state.pid for state in self.stack.state.parts.values()}
        strangers = [each.pid for each in self.stack.state.processes() if _leader(each.pid) not in known]
        found += [f"process {pid}" for pid in strangers]
        pools = sum(len(self.replicas(service)) for service in _POOLED)
        more = {"valkey": pools * _POOL, "toolexec": _SLACK + _KEPT}
        for name, most in self.at_rest.items():
            now = descriptors(self.pid(name))
            if now > most + more.get(name, _SLACK):
                found.append(f"{now} descriptors of {name}, {most} at rest")
        return found


@asynccontextmanager
async def running_rig(
    work: Path, *, links: Sequence[Link] = LINKS, replicas: Mapping[str, int] = REPLICAS
) -> AsyncIterator[Rig]:
    """A stack with these lines through proxies."""
    async with AsyncExitStack() as closing:
        shop = await closing.enter_async_context(running_http_server())
        shop.answers["/items/lamp"] = answer(200, b'{"state": "sent"}')
        points = Arming(work / "failpoints")
        collector, collector_url = await closing.enter_async_context(running_proxy(""))
        proxies: dict[Link, tuple[Proxy, str]] = {}
        for link in links:
            proxies[link] = await closing.enter_async_context(running_proxy(""))

        own = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector_url.replace("tcp:", "http:")}
        of_service = {
            "worker": {"MYRIAD_ORCHESTRATOR_RETRY_S": f"{RETRY_S:g}"},
            "toolexec": {"MYRIAD_TOOLEXEC_ENDPOINTS": f"shop={shop.url()}"},
        }

        async def interpose(stack: Stack) -> None:
            for link, (proxy, url) in proxies.items():
                put_between(stack, link, proxy, url.rpartition("/")[2])
            parts = stack.supervisor.parts
            for name, part in parts.items():
                service = name.partition("-")[0]
                if service in topology.PROCESSES:
                    parts[name] = with_variables(part, {**part.launch.env, **own, **of_service.get(service, {})})
                if service in _FAILING:
                    parts[name] = _test_build(parts[name], points)

        stack = await closing.enter_async_context(
            running_stack(work, Options(sim=True, replicas=replicas), on_made=interpose, prepare=_put_agents)
        )
        lines = {link: proxy for link, (proxy, _) in proxies.items()}
        yield Rig(stack, shop, lines, collector, points, Ledger(shop))


def _test_build(part: Part, points: Arming) -> Part:
    """The same part, with failpoints."""
    python, _, *module = part.launch.argv
    argv = (python, "-m", failing.__name__, *module)
    part = with_variables(part, {**part.launch.env, **points.variables})
    return dataclasses.replace(part, launch=dataclasses.replace(part.launch, argv=argv))


async def calm(load: Load, since: float, within: float) -> None:
    """Returns once no call of the last `CALM_S` seconds of a load failed. `recovery` says what came of it.

    Raises:
        AssertionError: calls still fail so many seconds (`within`) after `since`.
    """

    async def well() -> bool:
        recent = load.between(max(since, load.now - CALM_S))
        return load.now - since > CALM_S and bool(recent) and all(each.code == OK for each in recent)

    try:
        await until(well, max(within - (load.now - since), 0.0) + CALM_S)
    except AssertionError as error:
        raise AssertionError(f"{error}, calm since {since:.1f}: {load.failures()}") from None


def recovery(load: Load, since: float) -> float:
    """Seconds after `since` until the last call began that failed; 0 if none did."""
    return max([0.0, *(each.at - since for each in load.outcomes if each.code != OK)])


async def _put_agents(stack: Stack) -> None:
    """The agents, and the one document that `desk` knows."""
    await put_agent(stack, "player")
    async with grpc.aio.insecure_channel(stack.address("memory")) as channel:
        memory: Any = memory_pb2_grpc.MemoryServiceStub(channel)
        for name, fields in (("desk", _DESK), ("clerk", _CLERK)):
            agent = json_format.ParseDict(fields | {"name": name, "persona": "You mind the desk."}, agent_pb2.Agent())
            await memory.PutAgent(memory_pb2.PutAgentRequest(agent=agent), metadata=_OPERATOR, timeout=10)
    async with grpc.aio.insecure_channel(stack.address("retrieval")) as channel:
        retrieval: Any = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        collection = retrieval_pb2.Collection(name="desk-facts", scope=retrieval_pb2.SCOPE_TENANT)
        creating = retrieval_pb2.CreateCollectionRequest(collection=collection)
        await retrieval.CreateCollection(creating, metadata=_OPERATOR, timeout=60)
        document = retrieval_pb2.Document(document_id="d1", text="Parcels arrive on the third day.")
        writing = retrieval_pb2.UpsertDocumentsRequest(collection="desk-facts", documents=[document])
        await retrieval.UpsertDocuments(writing, metadata=_OPERATOR, timeout=60)


def _leader(pid: int) -> int:
    """The first process of the session a process is in: a part is its own."""
    found = processes.find(pid)
    return pid if found is None else found.session


async def desk_turn(user: Face) -> Events:
    """A turn that needs every part."""
    return cast(Events, await user.turn(await user.session("desk"), CALLS_SHOP))


def whole(events: Events) -> bool:
    """Whether every part did its share of a turn."""
    seen = kinds(events)
    return (
        seen[-1] == "completed"
        and "degraded" not in seen
        and only(events, "tool_finished").reason == ""
        and len(only(events, "retrieved").citations) == 1
    )


def only(events: Events, kind: str) -> Any:
    """The one event of a kind."""
    (found,) = (getattr(event, kind) for event in events if event.WhichOneof("event") == kind)
    return found
