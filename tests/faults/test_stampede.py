"""Envoy dies under clients that hold streams: all are back soon, where they were, and do not come all at once."""

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from services.dev import conversation, edge
from services.dev.conversation import Conversation, follow
from services.dev.edge import Edge, orchestrator_at
from services.dev.login import DEVELOPER
from services.dev.transcript import Transcript
from tests.faults.orders import customers_of
from tests.faults.rig import IN_FLIGHT
from tests.support.client import sim
from tests.support.connects import connects_to
from tests.support.metrics import sum_at
from tests.support.showing import not_shown
from tests.support.waiting import until

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("quick_restarts")]

CLIENTS = 2000
RUNS = 10
"""So many runs are watched, each by as many clients: what is counted is those who come, not those who work."""

TALK = sim(text="on and ", forever=True, delay_ms=4000)
BEGINNING = 50
"""So many connect at the same time, before anything is counted."""

BACK_S = 10.0
PEAK = 3.0
"""In no tenth of a second come more than so many times the mean."""

OPEN_S = 60.0


@dataclass
class Return:
    """How clients came back."""

    seconds: float
    """From the kill until the last of them read again."""

    peak: int
    """Most connections within a tenth of a second."""

    mean: float
    """Of all tenths from the start of the new Envoy to the last connection."""


async def watching(rig):
    """Streams that the orchestrators serve."""
    addresses = [rig.stack.address(f"{part}_metrics") for part in rig.replicas("orchestrator")]
    return sum(await asyncio.gather(*(sum_at(address, IN_FLIGHT) for address in addresses)))


async def watch(rig, seen):
    """A client of ours, over a connection of its own, that reads a run to its end."""
    async with orchestrator_at(Edge(rig.stack.address("envoy"), DEVELOPER)) as client:
        async for _ in follow(client, seen):
            pass


@asynccontextmanager
async def crowd(rig, clients):
    """So many clients read runs that talk on and on. When the runs have ended each has all of its run's log, once."""
    async with customers_of(rig) as customers:
        runs = [await begun(customers.client) for _ in range(RUNS)]
        seen = [Transcript(run_id=runs[number % RUNS]) for number in range(clients)]
        tasks = []
        for each in seen:
            tasks.append(asyncio.create_task(watch(rig, each)))
            if len(tasks) % BEGINNING == 0:
                await until(lambda: all_watch(rig, len(tasks)), OPEN_S)
        yield
        await asyncio.gather(*(conversation.cancel(customers.client, run) for run in runs))
        await asyncio.gather(*tasks)
        logs = {}
        for run in runs:
            logs[run] = Transcript(run_id=run)
            async for _ in follow(customers.client, logs[run]):
                pass
        assert all(each.events == logs[each.run_id].events for each in seen)


async def begun(client):
    """A run that goes on whoever reads it."""
    session = (await Conversation.begin(client, agent="player", session_id=None)).session_id
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
    request = run_pb2.CreateRunRequest(session_id=session, input=TALK)
    return (await client.unary(stub.CreateRun, request, timeout=OPEN_S)).run.run_id


async def all_watch(rig, clients):
    return await watching(rig) >= clients


async def few_watch(rig, clients):
    return await watching(rig) < clients / 10


async def lose_envoy(rig, clients):
    """Kills Envoy under so many clients, and waits until all read again."""
    try:
        with connects_to(int(rig.stack.address("envoy").rpartition(":")[2])) as connected:
            async with crowd(rig, clients):
                assert len(connected) >= clients, "clients share connections"
                connected.clear()
                restarts, killed = rig.part("envoy").restarts, time.time()
                os.kill(rig.pid("envoy"), signal.SIGKILL)
                await until(lambda: few_watch(rig, clients), BACK_S)
                await until(lambda: all_watch(rig, clients), 3 * BACK_S)
                back = time.time()
                assert rig.part("envoy").restarts == restarts + 1
    except PermissionError as error:
        not_shown(f"who comes when is not shown: {error}")
    since = began(rig.pid("envoy"))
    tenths = Counter(int((at - since) / 0.1) for at in connected if since <= at <= back)
    return Return(back - killed, max(tenths.values()), tenths.total() / (max(tenths) + 1))


def began(pid):
    """When a process began, Unix time."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


async def test_clients_who_lost_envoy_are_all_back_soon_and_do_not_come_all_at_once(rig):
    found = await lose_envoy(rig, CLIENTS)
    assert found.seconds <= BACK_S
    assert found.peak <= PEAK * found.mean


async def test_control_without_chance_they_come_all_at_once(rig, monkeypatch):
    monkeypatch.setattr(edge, "_FIRST_PAUSE_MS", (sum(edge._FIRST_PAUSE_MS) / 2,) * 2)
    monkeypatch.setattr(conversation, "_CHANCE", (1.0, 1.0))
    found = await lose_envoy(rig, CLIENTS)
    assert found.peak > PEAK * found.mean
