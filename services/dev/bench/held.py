"""Turns held open: a stream for each of ten thousand people, whose agent says a word now and then."""

import asyncio
import contextlib
import time
from contextlib import aclosing
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
        self.words = 0
        self.watched = False


async def section(work: Path, say: Say) -> Section:
    """Opens the streams through Envoy to the one process, watches them, and leaves them all at once."""
    async with asking.running(work, vertical=True, say=say) as bench:
        rows = await _measure(bench, say)
    return Section("Held streams", _ABOUT, [["", "one process"], *rows])


async def _measure(bench: Bench, say: Say) -> list[list[str]]:
    networks = [Network(None) for _ in range(STREAMS // _EACH_CONNECTION)]
    edges = [network.client("orchestrator", bench.stack.address("envoy")) for network in networks]
    held, gate = _Held(), asyncio.Semaphore(_BEGINNING)
    before, began = asking.usage_of(bench.pids()), time.perf_counter()
    tasks = [asyncio.create_task(_hold(held, edges[index % len(edges)], gate)) for index in range(STREAMS)]
    while held.open + held.errors < STREAMS:
        await asyncio.sleep(5)
        say(f"{held.open} streams open, {held.errors} errors")
    opened_s, after = time.perf_counter() - began, asking.usage_of(bench.pids())
    cores = await _watch(bench, held)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(network.close() for network in networks))
    kib = {name: (after[name].resident - before[name].resident) / 1024 / STREAMS for name in after}
    return [
        ["**held at once** (target 10,000)", f"**{held.open:,}**"],
        ["errors (target 0)", str(held.errors)],
        ["opened in s", number(opened_s)],
        ["words due while all were watched", number(STREAMS * WATCHED_S * 1000 / _EVERY_MS)],
        ["words that came", number(held.words)],
        ["**KiB each, all processes**", f"**{sum(kib.values()):.0f}**"],
        *([f"- {name}", number(each)] for name, each in kib.items() if each >= 1),
        *([f"cores used: {name}", number(each)] for name, each in cores.items() if each >= 0.01),
    ]


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
    except Exception:  # noqa: BLE001 - whatever ends a stream, it was not held
        held.errors += 1
    held.open -= opened


_ABOUT = f"""
{STREAMS:,} turns at once, each in a session of its own, through Envoy over {STREAMS // _EACH_CONNECTION} connections,
with a word every {_EVERY_MS // 1000} s; all are watched for {WATCHED_S:.0f} s once the last is open.
"""
