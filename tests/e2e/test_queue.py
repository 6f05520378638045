"""Runs that wait for a worker: created, finished, and not lost with it."""

import asyncio
import os
import signal
import time

import pytest
from google.protobuf import timestamp_pb2

from myriad.orchestrator.v1 import run_pb2
from services.dev.state import State
from tests.support.client import face, kinds, put_agent, sim
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def user(stack):
    await put_agent(stack, "player")
    async with face(stack) as made:
        yield made


async def create(user, session, text, **how):
    request = run_pb2.CreateRunRequest(session_id=session, input=text, **how)
    return (await user.stub.CreateRun(request, metadata=user.metadata, timeout=10)).run.run_id


async def test_a_run_that_was_created_is_finished_by_a_worker(user):
    run_id = await create(user, await user.session("player"), sim(text="done by a worker"))
    events = await user.watched(run_id)
    assert kinds(events)[:2] == ["started", "queued"]
    assert events[-1].completed.answer == "done by a worker"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_runs_of_one_session_answer_in_the_order_they_were_created(user):
    session = await user.session("player")
    runs = [await create(user, session, sim(text=f"answer {n}", delay_ms=20)) for n in range(4)]
    ended = []
    for run_id in runs:
        events = await user.watched(run_id)
        ended.append(events[-1].completed.answer)
    assert ended == [f"answer {n}" for n in range(4)]


async def test_a_run_does_not_begin_before_its_time(user):
    due = timestamp_pb2.Timestamp()
    due.FromMilliseconds(int((time.time() + 1.0) * 1000))
    run_id = await create(user, await user.session("player"), sim(text="late"), start_after=due)
    events = await user.watched(run_id)
    assert events[-1].completed.answer == "late"
    assert time.time() >= due.ToMilliseconds() / 1000


async def test_a_run_outlives_the_worker_it_runs_in(stack, user):
    words = "".join(f"word{n} " for n in range(60))
    run_id = await create(user, await user.session("player"), sim(text=words, delay_ms=100))
    seen = []
    async for event in user.watch(run_id):
        seen.append(event)
        if event.WhichOneof("event") == "text_delta":
            break
    worker = stack.state.parts["worker"]
    restarts = worker.restarts
    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while True:
            rest = await user.watched(run_id, after=seen[-1].sequence)
            seen += [event for event in rest if event.WhichOneof("event") != "heartbeat"]
            if kinds(seen)[-1] == "completed":
                break
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].completed.answer.split() == words.split()
    await until(lambda: worker.restarts > restarts and worker.state is State.READY, 30)  # other tests want it, too
