"""What happens between two steps: a process that dies there, or a store that is away there, loses and delays no run."""

import asyncio
import time
from dataclasses import replace

import orjson
import pytest

from services.kit.call import Principal
from services.kit.errors import ModelUnavailable, RequestIdReused, StoreUnavailable, Unavailable
from services.orchestrator.codec import EventCodec
from services.orchestrator.config import Config
from services.orchestrator.core import takeover
from services.orchestrator.core.accepting import _digest
from services.orchestrator.domain.agent import Tool
from services.orchestrator.domain.run import Answer, Record, Request
from services.orchestrator.domain.turn import ToolResult
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds
from tests.support.waiting import until

URL = "https://example.com/hook"
ANSWER = '{"pages": 3}'
QUICK = Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=0.3, retry_s=0.05, lease_s=0.05)
NOBODY = Principal(ALICE.tenant, ALICE.user)


@pytest.fixture
async def b(monkeypatch):
    monkeypatch.setattr(takeover, "BEAT_S", 0.05)
    async with bench(config=QUICK, lease_s=0.05) as made:
        yield made


class Broken:
    """A store, of which one method is another; the rest is as it was."""

    def __init__(self, store, **methods):
        self._store = store
        self.__dict__ |= methods

    def __getattr__(self, name):
        return getattr(self._store, name)


async def ended(b, run_id, runs=None):
    return await asyncio.wait_for(b.events(run_id, runs=runs), 5)


async def worked_on(b, run_id, classes=("SIMPLE",)):
    """A worker takes this run, if the queue has it."""
    worker = b.another(QUICK, classes=classes)
    claimed = await b.queue.claim(classes, 10, 1.0)
    assert claimed, "nobody put the run before the workers"
    act_as(NOBODY)
    await (await worker.take(NOBODY, SESSION, int(run_id.rpartition(".")[2])))
    return worker


async def test_a_run_that_is_cancelled_in_the_line_is_told_to_its_callback(b):
    run_id = await b.begin("hello", queue="SIMPLE", callback_url=URL)
    await b.runs.cancel(ALICE, run_id)
    (told,) = [orjson.loads(each.item.body) for each in await b.queue.claim(["callbacks"], 10, 0.5)]
    assert (told["run_id"], told["url"], told["state"]) == (run_id, URL, "cancelled")


async def test_the_next_run_does_not_wait_for_a_queue_of_callbacks_that_is_away(b):
    really = b.queue.put

    async def away(queue, items, **_how):
        if queue == "callbacks":
            raise StoreUnavailable("the store does not answer")
        await really(queue, items)

    b.queue.put = away
    b.model.scripts = [["one", 0.1], ["two"]]
    await b.begin("1", callback_url=URL)
    second = await b.begin("2")
    began = time.monotonic()
    assert (await ended(b, second))[-1].completed.answer == "two"
    assert time.monotonic() - began < 3.0


@pytest.mark.parametrize("step", ["request_cancel", "drop", "respond"])
async def test_who_ends_or_answers_a_run_is_known_to_work_there_before_anything_is_done(b, step):
    seen = []

    async def look(*arguments, **named):
        seen.append((NOBODY, SESSION) in b.owners["process-1"])
        return await getattr(b.store, step)(*arguments, **named)

    other = b.another(QUICK, run_log=Broken(b.store, **{step: look}))
    run_id = await b.begin("hello", queue="SIMPLE")
    if step == "respond":
        with pytest.raises(Exception):  # noqa: B017 - it waits for none
            await other.respond(ALICE, run_id, "token", Answer(approved=True))
    else:
        await other.cancel(ALICE, run_id)
    assert seen == [True]
    await other.close()


async def test_a_queue_that_is_away_costs_a_run_none_of_its_owners(b):
    really, refusals = b.queue.put, [StoreUnavailable("away")] * 6

    async def away(queue, items, *, must=False):
        if refusals:
            raise refusals.pop()
        await really(queue, items, must=must)

    b.queue.put = away
    run_id = await b.begin("hello", queue="SIMPLE")
    await until(lambda: not refusals, 5)
    worker = await worked_on(b, run_id)
    assert kinds(await ended(b, run_id))[-1] == "completed"
    await worker.close()


async def test_a_run_is_put_before_the_workers_when_they_can_have_it(b):
    really, standings = b.queue.put, []

    async def look(queue, items, *, must=False):
        run = b.store._run(ALICE, f"{SESSION}.1")
        standings.append(run.queued or run.lease_ends == 0.0)
        await really(queue, items, must=must)

    await b.begin("hello", queue="SIMPLE")
    b.queue.put = look
    act_as(NOBODY)
    await b.runs.resume(NOBODY, SESSION)
    assert standings == [True]


async def test_a_run_that_was_handed_over_often_has_lost_no_owner(b):
    b.model.scripts = [["so ", 60.0]]
    owner = b.another(QUICK)
    run_id = await b.begin("hello", runs=owner)
    for _ in range(6):
        await until(lambda: len(b.model.asked) > 0, 5)
        b.model.asked.clear()
        await owner.close()
        owner = b.another(QUICK)
        act_as(NOBODY)
        await owner.resume(NOBODY, SESSION)
    await owner.cancel(ALICE, run_id)
    assert kinds(await ended(b, run_id))[-1] == "cancelled"
    await owner.close()


async def test_what_could_not_be_gone_on_with_has_lost_no_owner(b):
    b.model.scripts = [["so ", 60.0]]
    owner = b.another(QUICK)
    run_id = await b.begin("hello", runs=owner)
    await owner.close()

    async def away(*arguments):
        raise StoreUnavailable("the store does not answer")

    other = b.another(QUICK, run_log=Broken(b.store, read=away))
    act_as(NOBODY)
    for _ in range(6):
        with pytest.raises(StoreUnavailable):
            await other.resume(NOBODY, SESSION)
    b.model.scripts = [["done"]]
    await b.runs.resume(NOBODY, SESSION)
    assert (await ended(b, run_id))[-1].completed.answer == "done"
    await other.close()


async def test_a_run_that_could_not_be_ended_is_ended_by_the_same_process_once_that_can_be(b):
    tries = []

    async def away(*arguments):
        tries.append(arguments)
        if len(tries) < 4:  # longer than the end of a run may take
            raise StoreUnavailable("the store does not answer")
        return await b.store.commit_turn(*arguments)

    memory = Broken(b.store, commit_turn=away)
    runs = b.another(Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=0.3, lease_s=0.05), memory=memory)
    run_id = await b.begin("hello", runs=runs)
    await until(lambda: b.store._run(ALICE, run_id).over, 5)
    assert kinds(await ended(b, run_id))[-1] == "completed"
    await runs.close()


@pytest.mark.parametrize(
    "error", [StoreUnavailable("the reply was lost"), RequestIdReused("it could not be taken back")]
)
async def test_a_run_that_has_begun_though_its_client_was_told_otherwise_holds_up_nobody(b, error):
    async def lost(*arguments):
        await b.store.begin_turn(*arguments)
        raise error

    runs = b.another(QUICK, memory=Broken(b.store, begin_turn=lost))
    with pytest.raises(type(error)):
        await b.begin("1", runs=runs)
    second = await b.begin("2", queue="SIMPLE")
    await until(lambda: b.store._run(ALICE, f"{SESSION}.1").over, 5)
    worker = await worked_on(b, second)
    assert kinds(await ended(b, second))[-1] == "completed"
    await worker.close()
    await runs.close()


@pytest.mark.parametrize("how", ["another adopts its session", "the client asks again", "the queue is back"])
async def test_a_run_that_is_due_later_is_put_though_whoever_accepted_it_did_not_come_to_that(b, how):
    due_ms = int((time.time() + 0.6) * 1000)
    really, puts = b.queue.put, []

    async def away(queue, items, **_how):
        puts.append(items)
        raise StoreUnavailable("the store does not answer")

    b.queue.put = away
    if how != "the queue is back":
        act_as(ALICE)  # as a process does that dies before it has put it
        kept = EventCodec().encode_record(Record("hello", "aura", 3, (), "SIMPLE", 5))
        request = Request(SESSION, "hello", "once", queue="SIMPLE", due_ms=due_ms)
        run_id = (await b.store.begin_turn(request, _digest(request), 1.0, kept)).run_id
        b.queue.put = really
    if how == "another adopts its session":
        b.runs._takeover.go_on(NOBODY, SESSION)
    else:
        run_id = await b.begin("hello", "once", queue="SIMPLE", due_ms=due_ms)
        b.queue.put = really
    worker = await worked_on(b, run_id)
    assert kinds(await ended(b, run_id))[-1] == "completed"
    await worker.close()


@pytest.mark.parametrize("answered", [False, True])
async def test_a_tool_in_the_background_of_which_nobody_heard_in_time_is_stopped_and_asked_for_its_result(b, answered):
    """Whoever ran it may have been lost before the run was told."""
    b.tools.answered = {"slow": ToolResult(ANSWER, is_error=False)} if answered else {}
    slow = Tool("slow", "Takes long.", {"type": "object"}, -9.9, background=True)
    b.agent_is(tools={"slow": slow}, model_chooses_tools=True)
    b.model.scripts = [[b.calls("slow")], ["late"]]
    run_id = await b.begin("hello")
    await until(lambda: b.store._run(ALICE, run_id).waiting is not None, 5)
    await asyncio.sleep(0.15)
    act_as(NOBODY)
    await (await b.runs.resume(NOBODY, SESSION))
    assert kinds(await ended(b, run_id))[-1] == "completed"
    assert [call.tool for call, _, _ in b.tools.ended] == ["slow"]
    (finished,) = [event.tool_finished for event in await ended(b, run_id) if event.HasField("tool_finished")]
    assert finished.reason == ("" if answered else "TOOL_TIMEOUT")
    assert (finished.result_json == ANSWER) is answered


async def test_a_run_that_is_stopped_while_it_fails_is_cancelled_and_no_dead_letter(b):
    b.model.scripts = [[ModelUnavailable("no model answers", retry_after=1.0)]]

    async def stopped(principal, turn, *rest):
        await b.store.request_cancel(principal, turn.run_id)
        return await b.store.park(principal, turn, *rest)

    run_id = await b.begin("hello", queue="SIMPLE")
    worker = b.another(QUICK, classes=("SIMPLE",), run_log=Broken(b.store, park=stopped))
    act_as(NOBODY)
    await (await worker.take(NOBODY, SESSION, 1))
    assert kinds(await ended(b, run_id))[-1] == "cancelled"
    assert await b.dead_letters.page(ALICE, None, 10) == []
    await worker.close()


def stopping(b):
    """A worker whose runs are stopped, by whoever asks it, just after the store let them wait."""

    async def stopped(principal, turn, *rest):
        found = await b.store.park(principal, turn, *rest)
        await worker.cancel(ALICE, turn.run_id)
        return found

    worker = b.another(replace(QUICK, retry_s=30.0), classes=("SIMPLE",), run_log=Broken(b.store, park=stopped))
    return worker


async def test_a_run_that_is_stopped_just_as_it_begins_to_wait_is_cancelled(b):
    b.agent_is(tools={"pay": Tool("pay", "Pays.", {"type": "object"}, 5.0, client=True)})
    b.agent_is(model_chooses_tools=True)
    b.model.scripts = [[b.calls("pay")], ["late"]]
    process = stopping(b)
    run_id = await b.begin("hello", runs=process)
    await until(lambda: b.store._run(ALICE, run_id).over, 5)
    assert kinds(await ended(b, run_id))[-1] == "cancelled"
    await process.close()


async def test_a_run_that_is_stopped_just_as_it_is_left_to_be_tried_again_is_cancelled(b):
    b.model.scripts = [[ModelUnavailable("no model answers", retry_after=1.0)]]
    run_id = await b.begin("hello", queue="SIMPLE")
    worker = stopping(b)
    act_as(NOBODY)
    await (await worker.take(NOBODY, SESSION, 1))
    await until(lambda: b.store._run(ALICE, run_id).over, 5)
    assert kinds(await ended(b, run_id))[-1] == "cancelled"
    assert await b.dead_letters.page(ALICE, None, 10) == []
    await worker.close()


async def test_a_run_that_is_tried_again_is_no_dead_letter_though_word_of_its_wait_was_lost(b):
    b.model.scripts = [[ModelUnavailable("no model answers", retry_after=1.0)], ["better"]]
    silent = [StoreUnavailable("the store does not answer")]

    async def unheard(*arguments):
        found = await b.store.park(*arguments)
        if silent:
            raise silent.pop()
        return found

    run_id = await b.begin("hello", queue="SIMPLE")
    worker = b.another(QUICK, classes=("SIMPLE",), run_log=Broken(b.store, park=unheard))
    act_as(NOBODY)
    await (await worker.take(NOBODY, SESSION, 1))
    assert await b.dead_letters.page(ALICE, None, 10) == []
    await asyncio.sleep(0.1)
    again = await worked_on(b, run_id)
    assert (await ended(b, run_id))[-1].completed.answer == "better"
    await asyncio.gather(worker.close(), again.close())


async def test_a_process_that_leaves_begins_nothing_more(b):
    b.model.scripts = [["one", 0.2], ["two"]]
    leaving = b.another(QUICK)
    first = await b.begin("1", runs=leaving)
    second = await b.begin("2", runs=leaving)
    await until(lambda: b.model.asked)
    run = leaving._driver.live[ALICE.tenant, first]
    run.interrupt = lambda: None  # it ends while the process leaves
    await leaving.close()
    assert b.store._run(ALICE, first).over
    await asyncio.sleep(0.1)
    assert b.store._run(ALICE, second).queued
    act_as(NOBODY)
    await b.runs.resume(NOBODY, SESSION)
    assert (await ended(b, second))[-1].completed.answer == "two"


async def test_a_process_that_leaves_takes_no_run_of_the_queue(b):
    await b.begin("hello", queue="SIMPLE")
    worker = b.another(QUICK, classes=("SIMPLE",))
    await worker.close()
    act_as(NOBODY)
    with pytest.raises(Unavailable):
        await worker.take(NOBODY, SESSION, 1)
    assert b.store._run(ALICE, f"{SESSION}.1").queued


async def test_a_run_that_is_due_later_and_accepted_while_its_session_is_busy_begins_when_it_is_due(b):
    b.model.scripts = [["one", 0.1], ["later"]]
    first = await b.begin("1")
    later = await b.begin("2", queue="SIMPLE", due_ms=int((time.time() + 0.5) * 1000))
    await ended(b, first)
    worker = await worked_on(b, later)
    assert (await ended(b, later))[-1].completed.answer == "later"
    await worker.close()


@pytest.mark.parametrize("write", ["append", "park"])
async def test_a_run_that_is_stopped_while_the_store_does_not_take_its_log_stops(b, write):
    async def away_once(principal, turn, *rest):
        if not stopped:
            stopped.append(turn)
            await runs.leave(ALICE, turn.run_id)
            raise StoreUnavailable("away for a moment")
        return await getattr(b.store, write)(principal, turn, *rest)

    stopped = []
    runs = b.another(QUICK, run_log=Broken(b.store, **{write: away_once}))
    slow = Tool("slow", "Takes long.", {"type": "object"}, 30.0, background=True)
    b.agent_is(tools={"slow": slow}, model_chooses_tools=True)
    b.model.scripts = [["I am ", "thinking.", 0.3, b.calls("slow")]]
    run_id = await b.begin("hello", runs=runs)
    assert kinds(await ended(b, run_id, runs))[-1] == "cancelled"
    await runs.close()
