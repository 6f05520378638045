"""Stop means stop: cancel, hang-ups and busy sessions, down to the model's slot."""

import asyncio
import time

import grpc
import pytest

from myriad.common.v1 import scheduling_pb2
from myriad.orchestrator.v1 import run_pb2
from tests.support.client import face, kinds, metric, put_agent, sim
from tests.support.load import percentile
from tests.support.waiting import until

LONG = sim(text="on and ", forever=True, delay_ms=500)
STOPPED_S = 0.5
PAUSE_S = 0.02
FOREVER = sim(text="on and ", forever=True, delay_ms=20)


@pytest.fixture
async def user(stack):
    await put_agent(stack, "player")
    for name in ("myriad_sim_running", "myriad_llm_busy_slots"):
        await until(reads_zero(stack, name), 30)  # what other tests left has ended
    async with face(stack) as made:
        yield made


async def begun(call):
    """The run's id once the model speaks."""
    while True:
        event = await call.read()
        if event.WhichOneof("event") == "text_delta":
            return event.run_id


def reads_zero(stack, name):
    async def zero():
        return await metric(stack, name) == 0

    return zero


@pytest.mark.alone
async def test_cancel_stops_the_model_and_ends_the_log(stack, user):
    call = user.run(await user.session("player"), FOREVER)
    run_id = await begun(call)
    assert await metric(stack, "myriad_sim_running") == 1
    await user.stub.CancelRun(run_pb2.CancelRunRequest(run_id=run_id), metadata=user.metadata)
    rest = await asyncio.wait_for(_rest(call), 0.5)
    assert kinds(rest)[-1] == "cancelled"
    assert rest[-1].cancelled.partial_answer.startswith("on and ")
    await until(reads_zero(stack, "myriad_sim_running"), 0.5)
    run = (await user.stub.GetRun(run_pb2.GetRunRequest(run_id=run_id), metadata=user.metadata)).run
    assert run.state == run_pb2.RUN_STATE_CANCELLED


async def _rest(call):
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


@pytest.mark.alone
async def test_cancel_frees_the_slot_of_the_real_model(stack, user):
    call = user.run(await user.session("aura"), "How do I take care of my pan, and what else should I know?")
    run_id = await begun(call)
    assert await metric(stack, "myriad_llm_busy_slots") == 1
    assert (await user.http.post(f"/v1/runs/{run_id}:cancel", json={})).status_code == 200
    await until(reads_zero(stack, "myriad_llm_busy_slots"), 0.5)
    assert kinds(await user.watched(run_id))[-1] == "cancelled"


@pytest.mark.alone
@pytest.mark.parametrize("runs", [20, pytest.param(100, marks=pytest.mark.chaos)])
async def test_no_cancel_of_many_takes_long(stack, user, runs):
    sessions = await asyncio.gather(*(user.session("player") for _ in range(runs)))
    calls = [user.run(session, LONG) for session in sessions]
    run_ids = await asyncio.gather(*(begun(call) for call in calls))
    assert await metric(stack, "myriad_sim_running") == runs

    async def took(index):
        await asyncio.sleep(index * PAUSE_S)
        since = time.monotonic()
        # Not on the streams' own connection, which has as many as Envoy allows.
        cancelling = user.http.post(f"/v1/runs/{run_ids[index]}:cancel", json={})
        rest, reply = await asyncio.gather(_rest(calls[index]), cancelling)
        assert (reply.status_code, kinds(rest)[-1]) == (200, "cancelled")
        return time.monotonic() - since

    seconds = await asyncio.gather(*map(took, range(runs)))
    await until(reads_zero(stack, "myriad_sim_running"), STOPPED_S)
    assert percentile(seconds, 0.99) <= STOPPED_S, sorted(seconds)[-5:]


@pytest.mark.alone
@pytest.mark.parametrize("runs", [5, pytest.param(100, marks=pytest.mark.chaos)])
async def test_each_cancel_frees_the_real_models_slot_in_time(stack, user, runs):
    seconds = []
    for _ in range(runs):
        call = user.run(await user.session("aura"), "How do I take care of my pan, and what else should I know?")
        run_id = await begun(call)
        assert await metric(stack, "myriad_llm_busy_slots") == 1
        since = time.monotonic()
        await user.stub.CancelRun(run_pb2.CancelRunRequest(run_id=run_id), metadata=user.metadata)
        await until(reads_zero(stack, "myriad_llm_busy_slots"), 5)
        seconds.append(time.monotonic() - since)
        assert kinds(await _rest(call))[-1] == "cancelled"
    assert percentile(seconds, 0.99) <= STOPPED_S, sorted(seconds)[-5:]


@pytest.mark.alone
@pytest.mark.parametrize("over", ["grpc", "sse"])
async def test_a_client_that_hangs_up_stops_its_run(stack, user, over):
    session = await user.session("player")
    if over == "grpc":
        call = user.run(session, FOREVER)
        run_id = await begun(call)
        call.cancel()
    else:
        events = user.sse("POST", f"/v1/sessions/{session}:run", json={"input": FOREVER})
        async for _, event in events:
            run_id = event["run_id"]
            if "text_delta" in event:
                break
        await events.aclose()
    await until(reads_zero(stack, "myriad_sim_running"), 0.5)
    assert kinds(await user.watched(run_id))[-1] == "cancelled"
    assert kinds(await user.turn(session, "hello"))[-1] == "completed"


async def test_a_run_told_to_go_on_outlives_its_client(user):
    call = user.run(
        await user.session("player"), sim(tokens=15, delay_ms=50), on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE
    )
    run_id = await begun(call)
    call.cancel()
    assert kinds(await user.watched(run_id))[-1] == "completed"


async def test_a_second_turn_in_a_busy_session_is_refused_when_it_asks_for_that(user):
    session = await user.session("player")
    call = user.run(session, FOREVER)
    run_id = await begun(call)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await user.turn(session, "me too", concurrency=scheduling_pb2.CONCURRENCY_REJECT)
    assert raised.value.code() is grpc.StatusCode.ABORTED
    body = {"input": "me too", "concurrency": "CONCURRENCY_REJECT"}
    refused = await user.http.post(f"/v1/sessions/{session}:run", json=body)
    assert refused.status_code == 409
    assert refused.json()["details"][0]["reason"] == "SESSION_BUSY"
    assert (await user.http.delete(f"/v1/sessions/{session}")).status_code == 409
    await user.stub.CancelRun(run_pb2.CancelRunRequest(run_id=run_id), metadata=user.metadata)


async def test_a_hundred_clients_that_hang_up_at_once_leave_nothing_running(stack, user):
    sessions = await asyncio.gather(*(user.session("player") for _ in range(100)))
    calls = [user.run(session, FOREVER) for session in sessions]
    await asyncio.gather(*(begun(call) for call in calls))
    assert await metric(stack, "myriad_sim_running") == 100
    for call in calls:
        call.cancel()
    await until(reads_zero(stack, "myriad_sim_running"), 20)
