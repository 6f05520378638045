"""An answer that takes its time: what we add to its first word, and how soon it stops when it is told to."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_event_pb2, run_pb2
from services.dev.bench import asking
from services.dev.bench.asking import Bench, Say
from services.dev.bench.load import percentile
from services.dev.bench.section import Section, number

STREAMS = 32
ROUNDS = 4
CANCELS = 100
_SLOW = asking.script(first_ms=60, delay_ms=20, tokens=100)
_ENDLESS = asking.script(deltas=["word "], delay_ms=20, forever=True)
_ANSWER_S = 2.1
_STOPS_AFTER_S = 0.3
_LATE_S = 0.5


async def section(work: Path, say: Say) -> Section:
    """Measures both ways of running, one after the other."""
    columns = []
    for name, vertical in asking.WAYS.items():
        folder = work / ("one" if vertical else "five")
        async with asking.running(folder, vertical=vertical, say=say, plays=_SLOW) as bench:
            say(f"{name}: slow answers")
            ours, direct = await _first_words(bench)
            say(f"{name}: cancels")
            stops, last_words = await _cancels(bench)
        columns.append([name, *_cells(ours, direct), *_stopped(stops, last_words)])
    names = ["", "first word p50 ms", "first word p99 ms", "direct p50 ms", "direct p99 ms"]
    names += ["**added p50 ms** (target <= 25)", "`cancelled` after cancel, p50 ms", "**p99 ms** (target <= 500)"]
    names += ["words that came later than that"]
    return Section("Slow answers", _ABOUT, [list(row) for row in zip(names, *columns, strict=True)])


async def _first_words(bench: Bench) -> tuple[list[float], list[float]]:
    """Seconds to the first word of turns, and of direct calls after them."""
    sessions = await bench.sessions(STREAMS, asking.EXAMPLE)
    ours: list[float] = []
    direct: list[float] = []

    def is_word(event: run_event_pb2.RunEvent) -> bool:
        return event.HasField("text_delta")

    def is_content(chunk: Any) -> bool:
        return bool(chunk["choices"] and chunk["choices"][0]["delta"].get("content"))

    async def stream(worker: int) -> None:
        await asyncio.sleep(worker * _ANSWER_S / STREAMS)  # spread over an answer's time, as people are
        for index in range(ROUNDS):
            question = bench.looked_up[(worker * ROUNDS + index) % len(bench.looked_up)]
            first = await asking.first_word_s(asking.turn(bench.edge, sessions[worker], question), is_word)
            ours.extend([first] * bool(index))  # the first warms up
        for _ in range(ROUNDS):
            chat = bench.triton.chat("sim_llm", asking.body(bench.looked_up[worker], _SLOW), asking.TIMEOUT_S)
            direct.append(await asking.first_word_s(chat, is_content))

    await asyncio.gather(*map(stream, range(STREAMS)))
    return ours, direct


async def _cancels(bench: Bench) -> tuple[list[float], int]:
    """Seconds from CancelRun to `cancelled`, and how many words came later than the target allows."""
    late = 0
    taken: list[float] = []

    async def one(session: str) -> None:
        nonlocal late
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(bench.edge.channel)
        told = 0.0

        async def cancel(run_id: str) -> None:
            nonlocal told
            await asyncio.sleep(_STOPS_AFTER_S)
            told = time.perf_counter()
            await bench.edge.unary(stub.CancelRun, run_pb2.CancelRunRequest(run_id=run_id), timeout=asking.TIMEOUT_S)

        telling: asyncio.Task[None] | None = None
        async for event in asking.turn(bench.edge, session, _ENDLESS):
            telling = telling or asyncio.create_task(cancel(event.run_id))
            if told and event.HasField("text_delta"):
                late += time.perf_counter() - told > _LATE_S
            if event.WhichOneof("event") in asking.LAST:
                taken.append(time.perf_counter() - told)
        if telling is not None:
            await telling

    for first in range(0, CANCELS, STREAMS):
        sessions = await bench.sessions(min(STREAMS, CANCELS - first), asking.PLAIN)
        await asyncio.gather(*map(one, sessions))
    return taken, late


def _cells(ours: Sequence[float], direct: Sequence[float]) -> list[str]:
    added = _percentile_ms(ours, 0.5) - _percentile_ms(direct, 0.5)
    four = [_percentile_ms(seconds, share) for seconds in (ours, direct) for share in (0.5, 0.99)]
    return [*map(number, four), f"**{added:.1f}**"]


def _stopped(taken: Sequence[float], late: int) -> list[str]:
    return [number(_percentile_ms(taken, 0.5)), f"**{_percentile_ms(taken, 0.99):.0f}**", str(late)]


def _percentile_ms(seconds: Sequence[float], share: float) -> float:
    return percentile(sorted(seconds), share) * 1000


_ABOUT = f"""
{STREAMS} turns at once of the example agent, one after the other in each stream, whose model says its first word after
60 ms and then one of 100 every 20 ms; then the same script asked of Triton. What is asked are the agent's own phrasings
of 8 to 12 words (10 to 16 tokens) that need facts; the script stands in its persona, so that it is neither embedded nor
searched for. Nothing keeps embeddings, searches or answers: each turn makes its own. Then {CANCELS} turns whose model
talks for ever, {STREAMS} at once, each cancelled after {_STOPS_AFTER_S:.1f} s.
"""
