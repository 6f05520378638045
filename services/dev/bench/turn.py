"""The straight-path turn: real Envoy, services, Valkey, Milvus and embedder; the model plays a script without delay.

What is asked comes from the example agent's own phrasings, so that intents are understood and facts are found.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.dev.bench import asking, flame
from services.dev.bench.asking import Bench, Say
from services.dev.bench.echo import echoing
from services.dev.bench.load import Load, closed_loop
from services.dev.bench.section import Section, number

AT_ONCE = (1, 32, 256)
TURNS = 1500
ENGINES = ("valkey", "milvus", "triton", "crm")
_TARGET_MS = {"five processes": 6.0, "one process": 3.5}
_TARGET_RATE = {"five processes": 90, "one process": 110}


@dataclass(frozen=True)
class Loaded:
    """A load, and the CPU of each process for each call, milliseconds; `generator` is this program."""

    load: Load
    cpu_ms: Mapping[str, float]
    unseen: Sequence[str] = ()
    """Processes that were to be watched, and no flame graph came of it."""

    @property
    def own_ms(self) -> float:
        """CPU of our services and Envoy, milliseconds a call."""
        return sum(ms for name, ms in self.cpu_ms.items() if name not in (*ENGINES, "generator"))


@dataclass
class Result:
    """One way of running."""

    name: str
    ready_s: float = 0.0
    """From the start of the first process until every part was ready and the agents were learned."""

    resident_mib: float = 0.0
    """Memory of all processes after the load."""

    turns: dict[int, Loaded] = field(default_factory=dict)
    direct: dict[int, Loaded] = field(default_factory=dict)
    """The same script, asked of Triton without us."""

    echo: dict[int, Loaded] = field(default_factory=dict)
    """A bare grpc.aio server that gives back what it gets: what one call costs that does nothing."""


async def section(work: Path, say: Say) -> Section:
    """Measures both ways of running, one after the other."""
    results = [
        await measure(work / ("one" if vertical else "five"), name, vertical=vertical, say=say)
        for name, vertical in asking.WAYS.items()
    ]
    return Section("Straight-path turn", _ABOUT + _seen(results), _rows(results))


async def measure(work: Path, name: str, *, vertical: bool, say: Say) -> Result:
    """Starts a stack and loads it with turns, direct calls of its model, and calls of an echo."""
    result = Result(name)
    began = time.perf_counter()
    async with asking.running(work, vertical=vertical, say=say) as bench:
        result.ready_s = time.perf_counter() - began
        for workers in AT_ONCE:
            say(f"{result.name}: turns, {workers} at once")
            result.turns[workers] = await _turns(bench, workers)
        for workers in AT_ONCE:
            say(f"{result.name}: direct calls and echo, {workers} at once")
            result.direct[workers] = await _direct(bench, workers)
            async with echoing() as (pid, call):
                result.echo[workers] = await measured({"echo": pid}, workers, TURNS, call)
        result.resident_mib = sum(used.resident for used in asking.usage_of(bench.pids()).values()) / 2**20
    return result


async def _turns(bench: Bench, workers: int) -> Loaded:
    sessions = await bench.sessions(workers, asking.EXAMPLE)

    async def call(worker: int, index: int) -> bool:
        question = bench.questions[index % len(bench.questions)]
        return await asking.turn_is_whole(bench.edge, sessions[worker], question)

    count = TURNS // 5 if workers == 1 else TURNS
    await closed_loop(workers, max(workers, count // 10), call)
    loaded = await measured(bench.pids(), workers, count, call)
    if workers == AT_ONCE[1]:  # apart from the measurement: who is watched is slower
        async with flame.recorded(bench.pids(), flame.FOLDER) as unseen:
            await closed_loop(workers, count // 2, call)
        return replace(loaded, unseen=unseen)
    return loaded


async def _direct(bench: Bench, workers: int) -> Loaded:
    async def call(_worker: int, _index: int) -> bool:
        async with aclosing(bench.triton.chat("sim_llm", asking.body("hello"), asking.TIMEOUT_S)) as chunks:
            return bool([chunk async for chunk in chunks])

    await closed_loop(workers, max(workers, TURNS // 10), call)
    return await measured(bench.pids(), workers, TURNS, call)


async def measured(
    pids: Mapping[str, int], workers: int, count: int, call: Callable[[int, int], Awaitable[bool]]
) -> Loaded:
    """A closed loop, and what it cost; `pids` are of processes that began a session."""
    before, own = asking.usage_of(pids), time.process_time()
    load = await closed_loop(workers, count, call)
    after = asking.usage_of(pids)
    used = {name: (after[name].cpu_s - before[name].cpu_s) * 1000 / count for name in pids}
    return Loaded(load, used | {"generator": (time.process_time() - own) * 1000 / count})


def _rows(results: Sequence[Result]) -> list[list[str]]:
    return [list(row) for row in zip(_names(results), *map(_column_of(results), results), strict=True)]


def _services(results: Sequence[Result]) -> list[str]:
    loads = [loaded for result in results for loaded in result.turns.values()]
    names = dict.fromkeys(name for loaded in loads for name in loaded.cpu_ms)
    return [name for name in names if name not in (*ENGINES, "generator")]


_BESIDE = ("valkey", "milvus", "triton", "generator")


def _names(results: Sequence[Result]) -> list[str]:
    names = ["", "ready, and the agent learned, after s (target 15)", "resident MiB (target 2,560)"]
    names += ["**CPU ms a turn, services and Envoy**, 32 at once", "target", "**turns/s**, 32 at once", "target"]
    for workers in AT_ONCE:
        names += [f"{workers} at once: turns/s", "p50 ms", "p99 ms", "errors", "CPU ms a turn, services and Envoy"]
    names += [f"CPU ms a turn by process, {' / '.join(map(str, AT_ONCE))} at once"]
    names += [f"- {name}" for name in _services(results)]
    names += [f"- beside it: {name}" for name in _BESIDE]
    for workers in AT_ONCE:
        names += [f"direct Triton, {workers} at once: calls/s", "p50 ms", "p99 ms", "CPU ms a call, Triton"]
    for workers in AT_ONCE:
        names += [f"bare echo, {workers} at once: calls/s", "p50 ms", "p99 ms", "CPU ms a call, server"]
    return names


def _column_of(results: Sequence[Result]) -> Callable[[Result], list[str]]:
    services = _services(results)

    def column(result: Result) -> list[str]:
        at_32 = result.turns[32]
        cells = [result.name, number(result.ready_s), number(result.resident_mib)]
        cells += [f"**{at_32.own_ms:.2f}**", f"<= {_TARGET_MS[result.name]}"]
        cells += [f"**{at_32.load.rate:.0f}**", f">= {_TARGET_RATE[result.name]}"]
        for workers in AT_ONCE:
            load = result.turns[workers].load
            cells += [number(load.rate), number(load.percentile_ms(0.5)), number(load.percentile_ms(0.99))]
            cells += [str(load.errors), f"{result.turns[workers].own_ms:.2f}"]
        cells += ["", *(_by_load(result, name) for name in (*services, *_BESIDE))]
        for floor, part in ((result.direct, "triton"), (result.echo, "echo")):
            for workers in AT_ONCE:
                load = floor[workers].load
                cells += [number(load.rate), number(load.percentile_ms(0.5)), number(load.percentile_ms(0.99))]
                cells += [f"{floor[workers].cpu_ms[part]:.2f}"]
        return cells

    return column


def _by_load(result: Result, name: str) -> str:
    """What a process took for a turn under each load. Empty: there is no such process."""
    taken = [result.turns[workers].cpu_ms.get(name) for workers in AT_ONCE]
    return " / ".join(f"{ms:.2f}" for ms in taken if ms is not None)


_ABOUT = """
A turn of the example agent through Envoy: session, intents by the real embedder, facts from the real Milvus, history
and log in the real Valkey, answer from `sim_llm` without delay; each worker in a session of its own. What is asked are
the agent's own phrasings that call no tool, without a script: 3 to 18 tokens each, 9 at the median. *Direct* is the
same script asked of Triton without us, *bare echo* a grpc.aio server that gives back what it gets, in the same run.
Where the time goes: `.myriad/bench/<process>.svg`, a flame graph for each process.
"""


def _seen(results: Sequence[Result]) -> str:
    """What is to be said of the flame graphs. Empty: all are there."""
    unseen = dict.fromkeys(name for result in results for loaded in result.turns.values() for name in loaded.unseen)
    return f"There is none of {', '.join(unseen)}: py-spy is missing, or may not watch them here.\n" if unseen else ""
