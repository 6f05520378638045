"""What every measurement asks of a stack: sessions, turns, and the direct calls they are held against."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from shutil import copytree
from types import MappingProxyType
from typing import Any

import yaml

from myriad.common.v1 import agent_pb2
from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2, sessions_pb2
from services.dev import agentfile, agents
from services.dev.login import DEVELOPER
from services.dev.plan import Options
from services.dev.processes import Usage, usage
from services.dev.stack import Stack, running_stack
from services.dev.state import ROOT
from services.kit.call import work_as
from services.kit.clients import Client, Network
from services.kit.triton import Triton

TIMEOUT_S = 120.0
_ANSWER_TOKENS = 100
"""Of an answer, at most: the example's own 80 would cut the hundred words of a slow answer short."""

EXAMPLE = "bench"
"""The example agent, with the model that plays a script."""

PLAIN = "plain"
"""An agent without intents and knowledge."""

LAST = ("completed", "failed", "cancelled")
"""The events that end a turn."""

WAYS = MappingProxyType({"five processes": False, "one process": True})
"""The ways of running that are compared; whether it is all services in one process."""

_WORDS = range(8, 13)
"""Of a question of a usual length: 10 to 16 tokens of the embedder."""

Say = Callable[[str], None]


class Bench:
    """A stack under measurement, with a way to it."""

    def __init__(self, stack: Stack, network: Network, agent: agent_pb2.Agent) -> None:
        """Measures `stack`; what is asked are phrasings of the example `agent` that call no tool."""
        self.stack = stack
        asked = [intent for intent in agent.intents if not intent.HasField("tool")]
        self.questions = [text for intent in asked for text in intent.examples]
        self.looked_up = [
            text
            for intent in asked
            if not intent.skip_knowledge
            for text in intent.examples
            if len(text.split()) in _WORDS
        ]
        """Those of them, of a usual length, that knowledge answers."""
        self.network = network
        self.edge = network.client("orchestrator", stack.address("envoy"))
        self.triton = Triton(network.client("triton", stack.address("triton")))

    async def sessions(self, count: int, agent: str) -> list[str]:
        """New sessions, their ids."""
        return [await new_session(self.edge, agent) for _ in range(count)]

    def pids(self) -> dict[str, int]:
        """The process that began the session of each part."""
        return {name: part.pid for name, part in self.stack.state.parts.items()}


def usage_of(pids: Mapping[str, int]) -> dict[str, Usage]:
    """What each of these sessions of processes takes now, by name."""
    found = usage(pids.values())
    return {name: found.get(pid, Usage()) for name, pid in pids.items()}


@asynccontextmanager
async def running(
    work: Path,
    *,
    vertical: bool,
    say: Say,
    plays: str = "",
    replicas: Mapping[str, int] = MappingProxyType({}),
    on_made: Callable[[Stack], Awaitable[None]] | None = None,
) -> AsyncIterator[Bench]:
    """A stack with both agents in it.

    Args:
        work: Where its files go.
        vertical: Whether all services are one process.
        say: Told how far it is.
        plays: The script that the example agent's model plays, as `script` makes it; it stands in the agent's persona,
            where the model alone sees it: as part of what is asked it would be embedded and searched for as well.
        replicas: As `Options` has it.
        on_made: Given the stack before its first process starts.
    """
    options = Options(vertical=vertical, sim=True, replicas=replicas)
    async with running_stack(work / "stack", options, on_made=on_made) as stack:
        source = agentfile.read(_example(work / "example", plays))
        await agents.apply(source, stack.target(), say)
        await agents.apply(agentfile.read(_plain(work / "plain")), stack.target(), say)
        work_as(DEVELOPER, name="bench", timeout=3600)
        network = Network(None)
        try:
            yield Bench(stack, network, source.agent)
        finally:
            await network.close()


async def new_session(edge: Client, agent: str) -> str:
    """Makes a session; returns its id."""
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(edge.channel)
    reply = await edge.unary(stub.CreateSession, sessions_pb2.CreateSessionRequest(agent=agent), timeout=TIMEOUT_S)
    return reply.session.session_id


def turn(edge: Client, session: str, text: str, timeout: float = TIMEOUT_S) -> Any:
    """Begins a turn: an async generator of its events."""
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(edge.channel)
    request = run_pb2.RunTurnRequest(session_id=session, input=text)
    return edge.stream(stub.RunTurn, request, timeout=timeout)


async def turn_is_whole(edge: Client, session: str, text: str) -> bool:
    """Has a turn; whether it completed with everything at work."""
    kinds = []
    async with aclosing(turn(edge, session, text)) as events:
        async for event in events:
            kinds.append(event.WhichOneof("event"))
    return kinds[-1] == "completed" and "degraded" not in kinds


async def first_word_s(chunks: Any, is_word: Callable[[Any], bool]) -> float:
    """Seconds to the first word of a stream, which is read to its end."""
    began, first = time.perf_counter(), 0.0
    async with aclosing(chunks):
        async for chunk in chunks:
            if not first and is_word(chunk):
                first = time.perf_counter() - began
    return first


def script(**fields: object) -> str:
    """A message that `sim_llm` plays (triton_repo/README.md)."""
    return f"#sim {json.dumps(fields)}"


def body(text: str, plays: str = "") -> Mapping[str, object]:
    """What the model is asked when it is asked without us; `plays` as of `running`."""
    told = [{"role": "system", "content": plays}] if plays else []
    return {"messages": [*told, {"role": "user", "content": text}]}


def _example(folder: Path, plays: str) -> Path:
    copytree(ROOT / "examples" / "aura" / "knowledge", folder / "knowledge")
    agent = yaml.safe_load((ROOT / "examples" / "aura" / "agent.yaml").read_text())
    agent |= {"name": EXAMPLE, "model": {**agent.get("model", {}), "model": "sim_llm", "max_tokens": _ANSWER_TOKENS}}
    agent["persona"] += f"\n{plays}" * bool(plays)
    (folder / "agent.yaml").write_text(yaml.safe_dump(agent, allow_unicode=True))
    return folder


def _plain(folder: Path) -> Path:
    folder.mkdir()
    agent = {"name": PLAIN, "persona": "You help.", "model": {"model": "sim_llm"}, "limits": {"timeout": "600s"}}
    (folder / "agent.yaml").write_text(yaml.safe_dump(agent))
    return folder
