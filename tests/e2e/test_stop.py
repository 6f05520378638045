"""Stop means stop: cancel, hang-ups and busy sessions, down to the model's slot."""

import asyncio

import grpc
import pytest

from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from tests.support.client import face, kinds, metric, put_agent, sim, until

pytestmark = pytest.mark.timeout(120)
FOREVER = sim(text="on and ", forever=True, delay_ms=20)


@pytest.fixture
async def user(stack):
    await put_agent(stack, "player")
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


async def test_cancel_stops_the_model_and_ends_the_log(stack, user):
    call = user.run(await user.session("player"), FOREVER)
    run_id = await begun(call)
    assert await metric(stack, "myriad_sim_running") == 1
    await user.stub.CancelRun(pb.CancelRunRequest(run_id=run_id), metadata=user.metadata)
    rest = await asyncio.wait_for(_rest(call), 0.5)
    assert kinds(rest)[-1] == "cancelled"
    assert rest[-1].cancelled.partial_answer.startswith("on and ")
    await until(reads_zero(stack, "myriad_sim_running"), 0.5)
    run = (await user.stub.GetRun(pb.GetRunRequest(run_id=run_id), metadata=user.metadata)).run
    assert run.state == pb.RUN_STATE_CANCELLED


async def _rest(call):
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


async def test_cancel_frees_the_slot_of_the_real_model(stack, user):
    call = user.run(await user.session("aura"), "How do I take care of my pan, and what else should I know?")
    run_id = await begun(call)
    assert await metric(stack, "myriad_llm_busy_slots") == 1
    assert (await user.http.post(f"/v1/runs/{run_id}:cancel", json={})).status_code == 200
    await until(reads_zero(stack, "myriad_llm_busy_slots"), 0.5)
    assert kinds(await user.watched(run_id))[-1] == "cancelled"


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
    call = user.run(await user.session("player"), sim(tokens=15, delay_ms=50), on_disconnect=pb.ON_DISCONNECT_CONTINUE)
    run_id = await begun(call)
    call.cancel()
    assert kinds(await user.watched(run_id))[-1] == "completed"


async def test_a_second_turn_in_a_busy_session_is_refused(user):
    session = await user.session("player")
    call = user.run(session, FOREVER)
    run_id = await begun(call)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await user.turn(session, "me too")
    assert raised.value.code() is grpc.StatusCode.ABORTED
    refused = await user.http.post(f"/v1/sessions/{session}:run", json={"input": "me too"})
    assert refused.status_code == 409
    assert refused.json()["details"][0]["reason"] == "SESSION_BUSY"
    assert (await user.http.delete(f"/v1/sessions/{session}")).status_code == 409
    await user.stub.CancelRun(pb.CancelRunRequest(run_id=run_id), metadata=user.metadata)


async def test_a_hundred_clients_that_hang_up_at_once_leave_nothing_running(stack, user):
    sessions = await asyncio.gather(*(user.session("player") for _ in range(100)))
    calls = [user.run(session, FOREVER) for session in sessions]
    await asyncio.gather(*(begun(call) for call in calls))
    assert await metric(stack, "myriad_sim_running") == 100
    for call in calls:
        call.cancel()
    await until(reads_zero(stack, "myriad_sim_running"), 5)
