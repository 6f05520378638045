"""The straight-path turn: real Envoy, services, Valkey, Milvus and embedder; the model plays a script without delay.

What is asked comes from the example agent's own phrasings, so that intents are understood and facts are found.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import yaml

from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from services.dev import agentfile, agents
from services.dev.bench import cpu
from services.dev.bench.load import Load, closed_loop
from services.dev.plan import ROOT
from services.dev.stack import DEVELOPER, Stack, running_stack
from services.kit.call import work_as
from services.kit.clients import Client, Network
from services.kit.triton import Triton

WORKERS = 32
ENGINES = ("valkey", "milvus", "triton", "crm")
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Result:
    """One way of running."""

    name: str
    ready_s: float
    """From the start of the first process until every part was ready; environments and weights are there."""

    resident_mib: float
    """Memory of all processes after the load."""

    turns: Load
    cpu_ms: dict[str, float]
    """CPU a turn by process, milliseconds; `generator` is this program."""

    alone: Load
    """Turns one after the other: what a turn takes when nothing else is at work."""

    alone_cpu_ms: dict[str, float]

    direct: Load
    """The same script, asked of Triton without us."""

    direct_cpu_ms: dict[str, float]

    @property
    def own_cpu_ms(self) -> float:
        """CPU a turn of our services and Envoy."""
        return _own(self.cpu_ms)

    @property
    def own_alone_cpu_ms(self) -> float:
        """The same, one turn after the other."""
        return _own(self.alone_cpu_ms)


def _own(cpu_ms: Mapping[str, float]) -> float:
    return sum(ms for name, ms in cpu_ms.items() if name not in (*ENGINES, "generator"))


async def measure(work: Path, *, vertical: bool, turns: int, say: Callable[[str], None]) -> Result:
    """Starts a stack in `work`, loads it with `turns` turns, and the same number of direct calls of the model."""
    name = "one process" if vertical else "five processes"
    say(f"[bold]{name}[/]: starting")
    began = time.perf_counter()
    async with running_stack(work=work / "stack", vertical=vertical, sim=True) as stack:
        ready_s = time.perf_counter() - began
        source = agentfile.read(_agent(work / "agent"))
        await agents.apply(source, stack.target(), say)
        questions = [text for intent in source.agent.intents if not intent.HasField("tool") for text in intent.examples]
        work_as(DEVELOPER, name="bench", timeout=3600)
        network = Network(None)
        try:
            client = network.client("orchestrator", stack.address("envoy"))
            triton = Triton(network.client("triton", stack.address("triton")))
            say(f"[bold]{name}[/]: {turns} turns, {WORKERS} at once")
            loaded, cpu_ms = await _turns(stack, client, questions, turns, WORKERS)
            alone, alone_cpu_ms = await _turns(stack, client, questions, turns // 5, 1)
            direct, direct_cpu_ms = await _direct(stack, triton, turns)
            resident_mib = sum(process.resident for process in stack.state.processes()) / 2**20
        finally:
            await network.close()
    return Result(name, ready_s, resident_mib, loaded, cpu_ms, alone, alone_cpu_ms, direct, direct_cpu_ms)


async def _turns(
    stack: Stack, client: Client, questions: list[str], count: int, workers: int
) -> tuple[Load, dict[str, float]]:
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
    creating = pb.CreateSessionRequest(agent="bench")
    sessions = [
        (await client.unary(stub.CreateSession, creating, timeout=_TIMEOUT_S)).session.session_id
        for _ in range(workers)
    ]

    async def turn(worker: int, number: int) -> bool:
        request = pb.RunTurnRequest(session_id=sessions[worker], input=questions[number % len(questions)])
        kinds = []
        async with aclosing(client.stream(stub.RunTurn, request, timeout=_TIMEOUT_S)) as events:
            async for event in events:
                kinds.append(event.WhichOneof("event"))
        return kinds[-1] == "completed" and "degraded" not in kinds

    await closed_loop(workers, max(workers, count // 10), turn)
    return await _measured(stack, workers, count, turn)


async def _direct(stack: Stack, triton: Triton, count: int) -> tuple[Load, dict[str, float]]:
    body = {"messages": [{"role": "user", "content": "hello"}]}

    async def ask(_worker: int, _number: int) -> bool:
        async with aclosing(triton.chat("sim_llm", body, _TIMEOUT_S)) as chunks:
            return bool([chunk async for chunk in chunks])

    await closed_loop(WORKERS, max(WORKERS, count // 10), ask)
    return await _measured(stack, WORKERS, count, ask)


async def _measured(
    stack: Stack, workers: int, count: int, call: Callable[..., object]
) -> tuple[Load, dict[str, float]]:
    pids = {name: part.pid for name, part in stack.state.parts.items()}
    before, own = cpu.of(pids), time.process_time()
    loaded = await closed_loop(workers, count, call)  # type: ignore[arg-type]
    after = cpu.of(pids)
    used = {name: (after[name] - before[name]) * 1000 / count for name in pids}
    return loaded, used | {"generator": (time.process_time() - own) * 1000 / count}


def _agent(folder: Path) -> Path:
    """The example agent under another name, with the model that plays a script."""
    copytree(ROOT / "examples" / "aura" / "knowledge", folder / "knowledge")
    agent = yaml.safe_load((ROOT / "examples" / "aura" / "agent.yaml").read_text())
    agent |= {"name": "bench", "model": {**agent.get("model", {}), "model": "sim_llm"}}
    (folder / "agent.yaml").write_text(yaml.safe_dump(agent, allow_unicode=True))
    return folder


def machine() -> str:
    """What it was measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown processor",
    )
    return f"{os.cpu_count()} x {model}"
