"""What the run log and the checkpoints cost: the same turns asked of two orchestrators, of which one has neither."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import MappingProxyType

from services.dev.bench import asking
from services.dev.bench.asking import Bench, Say
from services.dev.bench.load import closed_loop
from services.dev.bench.section import Section, number
from services.dev.bench.turn import Loaded, measured
from services.dev.stack import Stack
from services.kit.clients import Client

ROUNDS = 9
"""Each way is measured so often, in turns with the other: what else the machine does hits both alike."""

TURNS = MappingProxyType({1: 100, 32: 600})
"""Turns of a round, by how many are under way at once."""

WITH, WITHOUT = "with", "without"
_REPLICA = MappingProxyType({WITH: "orchestrator", WITHOUT: "orchestrator-2"})
_UNLOGGED = "tests.support.unlogged"
"""The orchestrator without them: composed beside the tests, so that no setting of the product can switch them off."""

_PARTS = ("memory", "valkey")
_CPU_TARGET_MS, _P50_TARGET_MS = 1.0, 2.0


@dataclass
class Measured:
    """What all rounds of one way came to, by how many turns were under way at once."""

    rounds: dict[int, list[Loaded]] = field(default_factory=lambda: {workers: [] for workers in TURNS})


async def section(work: Path, say: Say) -> Section:
    """Measures both ways, in turns."""
    async with asking.running(
        work, vertical=False, say=say, replicas={"orchestrator": 2}, on_made=_without_log
    ) as bench:
        edges = {way: bench.network.client("orchestrator", bench.stack.address(name)) for way, name in _REPLICA.items()}
        found = {way: Measured() for way in edges}
        for lap in range(ROUNDS + 1):
            for way, edge in edges.items() if lap % 2 else reversed(edges.items()):
                say(f"round {lap} of {ROUNDS}, {way}")
                for workers, count in TURNS.items():
                    loaded = await _turns(bench, edge, workers, count)
                    if lap:  # the first one warms up
                        found[way].rounds[workers].append(loaded)
    return Section("What the run log costs", _ABOUT, _rows(found))


async def _without_log(stack: Stack) -> None:
    """Makes the second orchestrator one without log and checkpoints."""
    parts = stack.supervisor.parts
    name = _REPLICA[WITHOUT]
    launch = dataclasses.replace(parts[name].launch, argv=(sys.executable, "-m", _UNLOGGED))
    parts[name] = dataclasses.replace(parts[name], launch=launch)


async def _turns(bench: Bench, edge: Client, workers: int, count: int) -> Loaded:
    sessions = [await asking.new_session(edge, asking.EXAMPLE) for _ in range(workers)]

    async def call(worker: int, index: int) -> bool:
        question = bench.questions[index % len(bench.questions)]
        return await asking.turn_is_whole(edge, sessions[worker], question)

    await closed_loop(workers, workers, call)
    return await measured(bench.pids(), workers, count, call)


def _rows(found: Mapping[str, Measured]) -> list[list[str]]:
    one, many = TURNS
    rows = [
        _row("**CPU ms a turn**, services and store, 32 at once", found, many, _cpu(), _CPU_TARGET_MS),
        _row("**p50 ms**, one at a time", found, one, _p50, _P50_TARGET_MS),
        _row("p50 ms, 32 at once", found, many, _p50),
        _row("turns/s, 32 at once", found, many, lambda loaded: loaded.load.rate),
        _row("CPU ms a turn, one at a time", found, one, _cpu()),
        _row("- orchestrator, 32 at once", found, many, _cpu(*_REPLICA.values())),
        *(_row(f"- {part}, 32 at once", found, many, _cpu(part)) for part in _PARTS),
        _row("errors", found, many, lambda loaded: float(loaded.load.errors)),
    ]
    return [["", "with", "without", "difference", "target"], *rows]


def _row(
    name: str,
    found: Mapping[str, Measured],
    workers: int,
    figure: Callable[[Loaded], float],
    target: float | None = None,
) -> list[str]:
    """Medians over the rounds; the difference is the median of the rounds' differences."""
    kept, unkept = ([figure(each) for each in found[way].rounds[workers]] for way in (WITH, WITHOUT))
    difference = median(a - b for a, b in zip(kept, unkept, strict=True))
    shown = [number(median(kept)), number(median(unkept)), number(difference)]
    if target is not None:
        shown[-1] = f"**{shown[-1]}**"
    return [name, *shown, f"<= {target:g}" if target is not None else ""]


def _cpu(*parts: str) -> Callable[[Loaded], float]:
    """CPU of these parts; none named: of the services and the store."""
    beside = {"milvus", "triton", "crm", "generator", "envoy"}

    def figure(loaded: Loaded) -> float:
        return sum(ms for name, ms in loaded.cpu_ms.items() if (name in parts if parts else name not in beside))

    return figure


def _p50(loaded: Loaded) -> float:
    return loaded.load.percentile_ms(0.5)


_ABOUT = f"""
The turn of the section above, asked of the orchestrators themselves, without Envoy. *Without*: an orchestrator that
keeps no record, no log and no checkpoint, and writes nothing between a turn's beginning and its end; it is composed for
this section only. Both run in the same stack and are measured in turns, {ROUNDS} rounds each; figures are medians over
the rounds, the difference is the median of the differences within a round.
"""
