"""Runs for the workers: how many are accepted and finished a second, and how soon one begins when none waits."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from services.dev.bench import asking
from services.dev.bench.asking import Bench, Say
from services.dev.bench.load import percentile
from services.dev.bench.section import Section, number
from services.dev.bench.stream import Floor, measure
from services.dev.bench.turn import Loaded, measured

RUNS = 1_000
ALONE = 100
"""Runs that are created one after the other, each when the one before has ended."""

_STREAMS = {1: 32, 100: 4}
"""Calls under way, by how many runs each creates."""

_HEAD_S = 20.0
"""So long after the first is created all are due: then the last is, too."""

_LONGEST_S = 120.0
_LOOK_S = 0.2
_TARGETS = {"accepted": 500, "finished": 200, "start": 20}


@dataclass(frozen=True)
class Wave:
    """Runs that were created, each in a session of its own, and then worked on by one worker."""

    size: int
    """Runs of a call."""

    accepted: Loaded
    finished_rate: float
    """Runs a second, from when they were due to when the last had ended."""

    cpu_ms: Mapping[str, float]
    """CPU of each process for each run that was worked on, milliseconds."""

    lost: int
    """Runs without an answer."""


@dataclass(frozen=True)
class Starts:
    """How long after the call a run created in an idle system has begun, seconds; sorted."""

    logged: list[float]
    """By the time that the log gives the worker's first event."""

    seen: list[float]
    """When the client has it, which watches."""


async def section(work: Path, say: Say) -> Section:
    """Measures a stack with one worker."""
    async with asking.running(work, vertical=False, say=say) as bench:
        await _wave(bench, 100, 200, say)  # warms up
        waves = [await _wave(bench, size, RUNS, say) for size in _STREAMS]
        say("runs alone")
        starts = await _starts(bench)
        floor = await measure(bench.stack.store_url(), min(_STREAMS[1], RUNS), RUNS)
    return Section("Queued runs", _ABOUT, _rows(waves, starts, floor))


async def _wave(bench: Bench, size: int, count: int, say: Say) -> Wave:
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(bench.edge.channel)
    sessions = await bench.sessions(count, asking.PLAIN)
    due_ms = int((time.time() + _HEAD_S) * 1000)
    requests = [run_pb2.CreateRunRequest(session_id=session, input="hello") for session in sessions]
    for request in requests:
        request.start_after.FromMilliseconds(due_ms)

    async def call(_worker: int, index: int) -> bool:
        if size == 1:
            one = await bench.edge.unary(stub.CreateRun, requests[index], timeout=asking.TIMEOUT_S)
            return bool(one.run.run_id)
        batch = run_pb2.CreateRunsRequest(requests=requests[index * size : (index + 1) * size])
        many = await bench.edge.unary(stub.CreateRuns, batch, timeout=asking.TIMEOUT_S)
        return all(result.HasField("run") for result in many.results)

    say(f"{count} runs are created, {size} a call")
    accepted = await measured(bench.pids(), _STREAMS[size], count // size, call)
    left_s = due_ms / 1000 - time.time()
    if left_s < 0:
        raise TimeoutError(f"{count} runs were not created in {_HEAD_S:.0f} s")
    say(f"they begin in {left_s:.0f} s")
    await asyncio.sleep(left_s)
    before = asking.usage_of(bench.pids())
    await _ended(bench, f"{sessions[-1]}.1")
    after = asking.usage_of(bench.pids())
    runs = [await _ended(bench, f"{session}.1") for session in sessions]
    seconds = max(run.end_time.ToMilliseconds() for run in runs) / 1000 - due_ms / 1000
    cpu_ms = {name: (after[name].cpu_s - before[name].cpu_s) * 1000 / count for name in before}
    lost = sum(run.state != run_pb2.RUN_STATE_COMPLETED for run in runs)
    return Wave(size, accepted, count / seconds, cpu_ms, lost)


async def _ended(bench: Bench, run_id: str) -> run_pb2.Run:
    """A run that has ended. The last that was created is looked at first: then seldom another is waited for."""
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(bench.edge.channel)
    async with asyncio.timeout(_LONGEST_S):
        while True:
            reply = await bench.edge.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=run_id), timeout=asking.TIMEOUT_S)
            if reply.run.HasField("end_time"):
                return reply.run
            await asyncio.sleep(_LOOK_S)


async def _starts(bench: Bench) -> Starts:
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(bench.edge.channel)
    starts = Starts([], [])
    for session in await bench.sessions(ALONE, asking.PLAIN):
        began = time.time()
        request = run_pb2.CreateRunRequest(session_id=session, input="hello")
        created = await bench.edge.unary(stub.CreateRun, request, timeout=asking.TIMEOUT_S)
        # Started and queued it is by then: what follows is the worker's.
        cursor = run_pb2.WatchRunRequest(run_id=created.run.run_id, after_sequence=2)
        seen = 0.0
        async with aclosing(bench.edge.stream(stub.WatchRun, cursor, timeout=asking.TIMEOUT_S)) as events:
            async for event in events:
                if not seen:
                    seen = time.time() - began
                    starts.logged.append(event.time.ToNanoseconds() / 1e9 - began)
        starts.seen.append(seen)
    starts.logged.sort()
    starts.seen.sort()
    return starts


def _rows(waves: list[Wave], starts: Starts, floor: Floor) -> list[list[str]]:
    rows = [["", "", "target"]]
    for wave in waves:
        how = f"{wave.size} a call, {_STREAMS[wave.size]} calls at once"
        rate = wave.accepted.load.rate * wave.size
        rows.append([f"**runs/s accepted**, {how}", f"**{number(rate)}**", f">= {_TARGETS['accepted']}"])
        own = {name: ms / wave.size for name, ms in wave.accepted.cpu_ms.items()}
        rows += [["errors", str(wave.accepted.load.errors), ""], *_cpu("CPU ms a run accepted", own)]
    for wave in waves:
        how = f"created {wave.size} a call"
        rows.append([f"**runs/s finished**, {how}", f"**{number(wave.finished_rate)}**", f">= {_TARGETS['finished']}"])
        rows += [["without an answer", str(wave.lost), "0"], *_cpu("CPU ms a run finished", wave.cpu_ms)]
    for name, times in (("by the log", starts.logged), ("as the client sees it", starts.seen)):
        target = f"<= {_TARGETS['start']}" if times is starts.logged else ""
        rows.append([f"**from the call to the worker's first event, p50 ms**, {name}", _ms(times, 0.5), target])
        rows.append(["p99 ms", _ms(times, 0.99), ""])
    rows.append(["a bare stream of the same store: entries/s written, 32 at once", number(floor.written.rate), ""])
    rows.append(["entries/s claimed and acknowledged, 16 at a time", number(floor.claimed_rate), ""])
    rows.append(["from the call to the reader, p50 ms", _ms(floor.heard_s, 0.5), ""])
    return rows


def _cpu(name: str, cpu_ms: Mapping[str, float]) -> list[list[str]]:
    shown = {part: ms for part, ms in cpu_ms.items() if ms >= 0.01 and part != "generator"}
    return [[name, number(sum(shown.values())), ""], *([f"- {part}", f"{ms:.2f}", ""] for part, ms in shown.items())]


def _ms(times: list[float], share: float) -> str:
    return number(percentile(times, share) * 1000)


_ABOUT = f"""
Runs of an agent without intents and knowledge, whose model answers without delay, each in a session of its own, asked
of the five processes and one worker through Envoy. {RUNS:,} are created, all due at one moment some time later: the
worker begins with the first when all are there. Then {ALONE} are created one by one, each when the one before has
ended. *A bare stream* is what redis-py takes for XADD, and for XREADGROUP and XACK, in the same store.
"""
