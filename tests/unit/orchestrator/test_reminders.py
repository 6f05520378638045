"""A run that waits has a reminder in its queue, for as long as it waits."""

import asyncio

import orjson
import pytest

from services.kit.errors import QueueFull, StoreUnavailable
from services.kit.queue import Stats
from services.orchestrator.config import Config
from services.orchestrator.domain.agent import SideEffect, Tool
from services.orchestrator.domain.run import Answer
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds
from tests.support.waiting import until

YES, NO = Answer(approved=True), Answer(reason="no")
QUEUE = "SIMPLE"


@pytest.fixture
async def b():
    async with bench(config=Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=1.0)) as made:
        made.runs.start()
        tools = (
            Tool("pay", "Pays.", {"type": "object"}, 5.0, SideEffect.SIDE_EFFECT),
            Tool("report", "Takes long.", {"type": "object"}, 50.0, background=True),
        )
        made.agent_is(model_chooses_tools=True, tools={tool.name: tool for tool in tools})
        made.tools.results = {"pay": ('{"paid": true}', False)}
        yield made


async def asks(b, *tools):
    """A run that asks for tools, one after the other: its id, once it waits for the first."""
    b.model.scripts = [*([b.calls(tool)] for tool in tools), ["done."]]
    run_id = await b.begin("please")
    await waits(b, run_id)
    return run_id


async def waits(b, run_id):
    await until(lambda: b.store._run(ALICE, run_id).waiting is not None, 3)


async def goes_on(b, run_id, how):
    """What a run waits for comes, or does not."""
    act_as(ALICE)
    if how == "cancelled":
        await b.runs.cancel(ALICE, run_id)
    elif how == "heard of":
        (call,) = [
            event.tool_started.call.tool_call_id for event in await events(b, run_id) if event.HasField("tool_started")
        ]
        b.store.wake(ALICE, run_id, orjson.dumps({"tool_call_id": call, "result_json": "{}"}))
        await b.runs.take(ALICE, SESSION, 1)
    else:
        asked = (await events(b, run_id))[-1].approval_required
        await b.runs.respond(ALICE, run_id, asked.approval_token, YES if how == "approved" else NO)


async def events(b, run_id):
    return await asyncio.wait_for(b.events(run_id), 3)


@pytest.mark.parametrize(
    ("tool", "how"),
    [("pay", "approved"), ("pay", "denied"), ("pay", "cancelled"), ("report", "heard of"), ("report", "cancelled")],
)
async def test_a_run_that_goes_on_leaves_no_reminder(b, tool, how):
    run_id = await asks(b, tool)
    assert await b.queue.stats(QUEUE) == Stats(delayed=1)
    await goes_on(b, run_id, how)
    assert kinds(await events(b, run_id))[-1] == ("cancelled" if how == "cancelled" else "completed")
    assert await b.queue.stats(QUEUE) == Stats()


async def test_each_wait_of_a_run_has_a_reminder_of_its_own(b):
    run_id, seen = await asks(b, "pay", "pay", "pay"), set()
    for _ in range(3):
        seen |= {name for _, name in b.queue._shared.entries}
        assert await b.queue.stats(QUEUE) == Stats(delayed=1)
        answered = len(await events(b, run_id))
        await goes_on(b, run_id, "approved")
        await until(lambda n=answered: len(b.store._run(ALICE, run_id).entries) > n + 1, 3)
        await until(lambda: b.store._run(ALICE, run_id).waiting or b.store._run(ALICE, run_id).over, 3)
    assert (len(seen), await b.queue.stats(QUEUE)) == (3, Stats())


async def test_a_reminder_that_cannot_be_taken_out_holds_up_nobody(b):
    async def away(queue, id):
        raise StoreUnavailable("the store does not answer")

    b.queue.remove = away
    run_id = await asks(b, "pay")
    await goes_on(b, run_id, "approved")
    assert kinds(await events(b, run_id))[-1] == "completed"
    assert await b.queue.stats(QUEUE) == Stats(delayed=1)


async def test_runs_that_wait_do_not_fill_the_queue_of_their_tenant(b):
    b.queue._max = 1
    await asks(b, "pay")
    for session in ("s2", "s3"):
        b.store.add_session(ALICE, session, "aura")
    assert await b.begin("hello", queue=QUEUE, session="s2")
    with pytest.raises(QueueFull):  # the control: what is not of a run that was accepted counts
        await b.begin("hello", queue=QUEUE, session="s3")
