"""Whose leaving stops a run, and whose does not."""

import asyncio

import pytest

from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from services.kit.errors import StoreUnavailable
from services.orchestrator.servicer import OrchestratorServicer
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds

ENDLESS = ["on ", 60.0]


@pytest.fixture
async def b():
    async with bench() as made:
        made.model.scripts = [ENDLESS]
        made.servicer = OrchestratorServicer(made.runs, None)
        act_as(ALICE)
        yield made


async def speaking(stream):
    """The run's id once the model speaks."""
    async for event in stream:
        if event.WhichOneof("event") == "text_delta":
            return event.run_id


def turn(b, **fields):
    return b.servicer.RunTurn(pb.RunTurnRequest(session_id=SESSION, input="hello", **fields), None)


async def state(b, run_id):
    run = (await b.servicer.GetRun(pb.GetRunRequest(run_id=run_id), None)).run
    return run.state


async def test_the_last_client_that_leaves_stops_the_run(b):
    first, second = turn(b, request_id="r1"), turn(b, request_id="r1")
    run_id = await speaking(first)
    assert await speaking(second) == run_id
    await first.aclose()
    await asyncio.sleep(0.05)
    assert await state(b, run_id) == pb.RUN_STATE_RUNNING
    await second.aclose()
    events = await asyncio.wait_for(b.events(run_id), 0.5)
    assert kinds(events)[-1] == "cancelled"


async def test_a_client_that_said_so_may_leave(b):
    stream = turn(b, on_disconnect=pb.ON_DISCONNECT_CONTINUE)
    run_id = await speaking(stream)
    await stream.aclose()
    await asyncio.sleep(0.05)
    assert await state(b, run_id) == pb.RUN_STATE_RUNNING


async def test_an_error_of_ours_stops_no_run(b):
    run_id = await speaking(turn(b, request_id="r1", on_disconnect=pb.ON_DISCONNECT_CONTINUE))

    async def away(*_args):
        raise StoreUnavailable("the store does not answer")

    elsewhere = b.another()
    read, b.store.read = b.store.read, away
    servicer = OrchestratorServicer(elsewhere, None)
    with pytest.raises(StoreUnavailable):
        async for _ in servicer.RunTurn(pb.RunTurnRequest(session_id=SESSION, input="hello", request_id="r1"), None):
            pass
    b.store.read = read
    await asyncio.sleep(0.05)
    assert await state(b, run_id) == pb.RUN_STATE_RUNNING


async def test_watching_neither_keeps_a_run_nor_ends_it(b):
    run_id = await speaking(turn(b, on_disconnect=pb.ON_DISCONNECT_CONTINUE))
    watch = b.servicer.WatchRun(pb.WatchRunRequest(run_id=run_id), None)
    await speaking(watch)
    await watch.aclose()
    assert await state(b, run_id) == pb.RUN_STATE_RUNNING
    await b.servicer.CancelRun(pb.CancelRunRequest(run_id=run_id), None)
    assert kinds(await asyncio.wait_for(b.events(run_id), 0.5))[-1] == "cancelled"
