"""Turns held open: a stream for each of ten thousand people, whose agent says a word now and then."""

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from services.dev.bench import asking
from services.dev.bench.asking import Bench, Say
from services.dev.bench.section import Section, number
from services.kit.clients import Client, Network

STREAMS = 10_000
WATCHED_S = 30.0
_EVERY_MS = 10_000
_EACH_CONNECTION = 100
"""Streams on one connection: what Envoy allows."""

_BEGINNING = 24
"""Turns that are begun at the same time."""


class _Held:
    """What came of it so far."""

    def __init__(self) -> None:
        self.open = 0
        self.errors = 0
        self.last_error = ""
        self.words = 0
        self.watched = False


async def section(work: Path, say: Say) -> Section:
    """Opens the streams through Envoy, watches them and leaves them all at once, for both ways of running."""
    found = {}
    for name, vertical in asking.WAYS.items():
        async with asking.running(work / ("one" if vertical else "five"), vertical=vertical, say=say) as bench:
            found[name] = await _measure(bench, say)
    return Section("Held streams", _ABOUT, _rows(found))


@dataclass(frozen=True)
class _Result:
    """One way of running."""

    held: int
    errors: int
    words: int
    opened_s: float
    kib: Mapping[str, float]
    """Memory a stream, of each part."""

    cores: Mapping[str, float]
    """Processors kept busy while the streams were watched, by each part."""

    descriptors: Mapping[str, int]
    """Open ones of each part's first process."""


async def _measure(bench: Bench, say: Say) -> _Result:
    networks = [Network(None) for _ in range(STREAMS // _EACH_CONNECTION)]
    edges = [network.client("orchestrator", bench.stack.address("envoy")) for network in networks]
    held, gate = _Held(), asyncio.Semaphore(_BEGINNING)
    before, began = asking.usage_of(bench.pids()), time.perf_counter()
    tasks = [asyncio.create_task(_hold(held, edges[index % len(edges)], gate)) for index in range(STREAMS)]
    while held.open + held.errors < STREAMS:
        await asyncio.sleep(5)
        say(f"{held.open} streams open, {held.errors} errors {held.last_error}".rstrip())
    opened_s, after = time.perf_counter() - began, asking.usage_of(bench.pids())
    cores = await _watch(bench, held)
    descriptors = {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in bench.pids().items()}
    watched = held.open, held.errors, held.words  # before they are left
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(network.close() for network in networks))
    kib = {name: (after[name].resident - before[name].resident) / 1024 / STREAMS for name in after}
    return _Result(*watched, opened_s, kib, cores, descriptors)


def _rows(found: Mapping[str, _Result]) -> list[list[str]]:
    results = list(found.values())
    parts = list(dict.fromkeys(name for result in results for name in result.kib))
    rows = [
        ["", *found],
        ["**held at once** (target 10,000)", *(f"**{result.held:,}**" for result in results)],
        ["errors (target 0)", *(str(result.errors) for result in results)],
        ["opened in s", *(number(result.opened_s) for result in results)],
        ["words due while all were watched", *(number(STREAMS * WATCHED_S * 1000 / _EVERY_MS) for _ in results)],
        ["words that came", *(number(result.words) for result in results)],
        ["**KiB each, all processes**", *(f"**{sum(result.kib.values()):.0f}**" for result in results)],
    ]
    rows += [[f"- {name}", *(number(result.kib.get(name, 0)) for result in results)] for name in parts]
    rows += [[f"cores used: {name}", *(number(result.cores.get(name, 0)) for result in results)] for name in parts]
    rows += [["descriptors of the part with most", *(str(max(result.descriptors.values())) for result in results)]]
    return rows


async def _watch(bench: Bench, held: _Held) -> dict[str, float]:
    """Watches for a while; cores used by process."""
    before = asking.usage_of(bench.pids())
    held.watched = True
    await asyncio.sleep(WATCHED_S)
    held.watched = False
    after = asking.usage_of(bench.pids())
    return {name: (after[name].cpu_s - before[name].cpu_s) / WATCHED_S for name in after}


async def _hold(held: _Held, edge: Client, gate: asyncio.Semaphore) -> None:
    text = asking.script(deltas=["word "], forever=True, delay_ms=_EVERY_MS, first_ms=1)
    opened = False
    try:
        await gate.acquire()
        with contextlib.ExitStack() as until_open:
            until_open.callback(gate.release)
            session = await asking.new_session(edge, asking.PLAIN)
            async with aclosing(asking.turn(edge, session, text, timeout=600.0)) as events:
                async for event in events:
                    kind = event.WhichOneof("event")
                    if kind == "text_delta" and not opened:
                        opened = True
                        held.open += 1
                        until_open.close()
                    held.words += kind == "text_delta" and held.watched
                    if kind in asking.LAST:
                        break
        held.errors += 1  # nobody has stopped it
    except Exception as error:  # noqa: BLE001 - whatever ends a stream, it was not held
        held.errors += 1
        held.last_error = f"{type(error).__name__}: {error}"
    held.open -= opened


_ABOUT = f"""
{STREAMS:,} turns at once, each in a session of its own, through Envoy over {STREAMS // _EACH_CONNECTION} connections,
with a word every {_EVERY_MS // 1000} s; all are watched for {WATCHED_S:.0f} s once the last is open.
"""
