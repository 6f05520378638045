"""Runs of one session: each in its turn, as it asks, across processes and queues."""

import asyncio

import pytest

from myriad.common.v1 import scheduling_pb2
from myriad.orchestrator.v1 import run_pb2
from services.kit.call import Principal
from services.kit.errors import ModelUnavailable, RunNotFound, SessionBusy
from services.kit.hints import RunHint
from services.orchestrator.codec import run_of
from services.orchestrator.config import Config
from services.orchestrator.core import dispatch
from services.orchestrator.domain.agent import SideEffect, Tool
from services.orchestrator.domain.run import Concurrency, Request
from tests.support.orchestrator import ALICE, MALLORY, SESSION, act_as, bench, kinds
from tests.support.waiting import until

ENDLESS = ["so ", 60.0]
QUICK = Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=1.0, retry_s=0.05)


@pytest.fixture
async def b():
    async with bench(config=QUICK) as made:
        made.runs.start()
        yield made


async def ended(b, run_id, runs=None):
    return await asyncio.wait_for(b.events(run_id, runs=runs), 3)


async def work(b, worker, classes=("SIMPLE",), wait_s=1.5):
    """A worker takes what is due, and stays with it. Returns how much that was."""
    found = await b.queue.claim(classes, 100, wait_s)
    for claimed in found:
        hint = RunHint.read(claimed.item.body)
        who = Principal(hint.tenant, hint.user)
        act_as(who)
        await b.queue.done(claimed)
        try:
            await (await worker.take(who, hint.session_id, hint.run))
        except (RunNotFound, SessionBusy):
            continue
    return len(found)


async def state(b, run_id):
    return run_of(*await b.runs.bounds(ALICE, run_id)).state


async def test_a_second_turn_waits_and_follows_the_first(b):
    b.model.scripts = [["one", 0.05], ["two"], ["three"]]
    first, second, third = [await b.begin(text) for text in ("1", "2", "3")]
    events = await ended(b, third)
    assert kinds(events)[:2] == ["started", "queued"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert (await ended(b, second))[1].queued.position == 1
    assert events[1].queued.position == 2
    said = [message.content for message in b.store.history(ALICE, SESSION)]
    assert said == ["1", "one", "2", "two", "3", "three"]
    assert kinds(await ended(b, first))[-1] == "completed"


async def test_who_creates_a_run_is_told_its_log_without_a_look_at_the_store(b):
    act_as(ALICE)
    accepted = await b.runs.accept(ALICE, Request(SESSION, "1", "once", queue="SIMPLE"), lambda run_id: None)
    first, newest, _ = await b.runs.bounds(ALICE, accepted.run_id)
    assert accepted.log == (first, newest)
    again = await b.runs.accept(ALICE, Request(SESSION, "1", "once", queue="SIMPLE"), lambda run_id: None)
    assert (again.run_id, again.log) == (accepted.run_id, ())  # who knows how far it is by now


async def test_a_turn_that_waits_goes_on_in_another_process_and_in_order(b):
    b.model.scripts = [["one", 0.1], ["two"], ["three"]]
    other = b.another(QUICK)
    await b.begin("1")
    second = await b.begin("2", runs=other)
    third = await b.begin("3", runs=b.runs)
    assert (await ended(b, second, runs=other))[-1].completed.answer == "two"
    assert (await ended(b, third, runs=other))[-1].completed.answer == "three"
    await other.close()


async def test_an_interrupted_turn_keeps_what_it_has_said(b):
    b.model.scripts = [ENDLESS, ["stopped."]]
    first = await b.begin("1")
    await until(lambda: b.store._run(ALICE, first).entries[2:])
    second = await b.begin("2", concurrency=Concurrency.INTERRUPT)
    assert (await ended(b, second))[-1].completed.answer == "stopped."
    last = (await ended(b, first))[-1].cancelled
    assert (last.partial_answer, last.rolled_back) == ("so ", False)
    assert [message.content for message in b.store.history(ALICE, SESSION)] == ["1", "so ", "2", "stopped."]


async def test_a_turn_that_is_rolled_back_leaves_nothing_but_what_its_tools_did(b):
    ship = Tool("ship", "Ships.", {"type": "object"}, 5.0, SideEffect.IDEMPOTENT)
    look = Tool("look", "Looks.", {"type": "object"}, 5.0)
    b.agent_is(tools={"ship": ship, "look": look}, model_chooses_tools=True)
    b.tools.results = {"ship": ("{}", False), "look": ("{}", False)}
    b.model.scripts = [[b.calls("look"), b.calls("ship")], ENDLESS, ["anew"]]
    first = await b.begin("1")
    await until(lambda: len(b.model.asked) == 2 and b.store._run(ALICE, first).entries[6:])
    second = await b.begin("2", concurrency=Concurrency.ROLLBACK)
    assert (await ended(b, second))[-1].completed.answer == "anew"
    last = (await ended(b, first))[-1].cancelled
    assert last.rolled_back
    assert [call.tool for call in last.tool_effects] == ["ship"]
    assert [message.content for message in b.store.history(ALICE, SESSION)] == ["2", "anew"]


async def test_a_run_in_the_line_is_cancelled_there_and_the_next_takes_its_place(b):
    b.model.scripts = [["one", 0.2], ["three"]]
    await b.begin("1")
    second, third = await b.begin("2"), await b.begin("3")
    with pytest.raises(RunNotFound):
        await b.runs.cancel(MALLORY, second)
    await b.runs.cancel(ALICE, second)
    await b.runs.cancel(ALICE, second)
    assert kinds(await ended(b, second)) == ["started", "queued", "cancelled"]
    assert (await ended(b, third))[-1].completed.answer == "three"
    assert [message.content for message in b.store.history(ALICE, SESSION)] == ["1", "one", "3", "three"]


async def test_when_the_process_dies_another_goes_on_with_the_run_and_then_with_the_line(b):
    b.model.scripts = [["one ", 60.0]]
    doomed, other = b.another(QUICK), b.another(QUICK)
    first = await b.begin("1", runs=doomed)
    second = await b.begin("2", runs=doomed)
    await until(lambda: b.store._run(ALICE, first).entries[2:])
    doomed._driver._holding.close()
    b.store._run(ALICE, first).lease_ends = 0.0
    b.model.scripts = [["all"]]
    await other._takeover.hold(ALICE, SESSION)
    other._takeover.go_on(ALICE, SESSION)
    assert (await ended(b, second, runs=other))[-1].completed.answer == "all"
    assert (await ended(b, first, runs=other))[-1].completed.answer == "all"
    for each in (doomed, other):
        await each.close()


async def test_a_run_for_the_workers_is_left_to_a_worker_of_its_class(b):
    run_id = await b.begin("hello", queue="GPU")
    assert await state(b, run_id) == 1
    assert await work(b, b.another(QUICK, classes=("SIMPLE",)), ("SIMPLE",), 0.01) == 0
    worker = b.another(QUICK, classes=("GPU",))
    assert await work(b, worker, ("GPU",)) == 1
    assert kinds(await ended(b, run_id))[:2] == ["started", "queued"]
    assert (await ended(b, run_id))[-1].completed.answer == "Hello."
    await worker.close()


async def test_a_run_says_which_workers_it_waits_for_while_it_does(b):
    b.model.scripts = [["so ", 0.1, ModelUnavailable("away", retry_after=1.0)]]
    run_id, worker = await b.begin("hello", queue="GPU"), b.another(QUICK, classes=("GPU",))
    shown = run_of(*await b.runs.bounds(ALICE, run_id))
    assert (shown.state, shown.queue_class) == (run_pb2.RUN_STATE_QUEUED, scheduling_pb2.QUEUE_CLASS_GPU)
    working = asyncio.create_task(work(b, worker, ["GPU"]))
    await until(lambda: b.model.asked)
    assert run_of(*await b.runs.bounds(ALICE, run_id)).queue_class == scheduling_pb2.QUEUE_CLASS_UNSPECIFIED
    await working
    shown = run_of(*await b.runs.bounds(ALICE, run_id))
    assert (shown.state, shown.queue_class) == (run_pb2.RUN_STATE_QUEUED, scheduling_pb2.QUEUE_CLASS_GPU)
    await worker.close()


async def test_who_comes_by_a_run_of_another_class_puts_it_before_its_workers(b):
    run_id = await b.begin("hello", queue="GPU")
    (claimed,) = await b.queue.claim(["GPU"], 1, 1.0)
    await b.queue.done(claimed)  # and the worker dies
    act_as(ALICE)
    await b.runs.resume(ALICE, SESSION)
    assert await state(b, run_id) == 1
    worker = b.another(QUICK, classes=("GPU",))
    assert await work(b, worker, ("GPU",)) == 1
    assert (await ended(b, run_id))[-1].completed.answer == "Hello."
    await worker.close()


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(dispatch, "_LATER_S", 0.02)


async def test_a_run_of_the_queue_that_fails_for_what_may_pass_is_tried_again(b, at_once):
    b.model.scripts = [["half ", 0.03, ModelUnavailable("away", retry_after=1.0)], ["whole"]]
    run_id, worker = await b.begin("hello", queue="SIMPLE"), b.another(QUICK, classes=("SIMPLE",))
    assert await work(b, worker) == 1
    assert await state(b, run_id) == 1
    assert await work(b, worker) == 1
    events = await ended(b, run_id)
    assert events[-1].completed.answer == "whole"
    assert "restarted" in kinds(events)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    await worker.close()


async def test_a_run_of_the_queue_is_given_up_after_its_last_attempt(b, at_once):
    b.model.scripts = [[ModelUnavailable("away", retry_after=1.0)]]
    run_id, worker = await b.begin("hello", queue="SIMPLE"), b.another(QUICK, classes=("SIMPLE",))
    for _ in range(QUICK.max_attempts):
        assert await work(b, worker) == 1
    assert (await ended(b, run_id))[-1].failed.error.code == 14
    assert len(b.model.asked) == QUICK.max_attempts
    assert b.telemetry.metrics.get_sample_value("myriad_dead_letters_total", {"queue": "SIMPLE"}) == 1
    await worker.close()


async def test_a_run_that_is_tried_again_later_can_be_stopped_meanwhile(b):
    b.model.scripts = [[ModelUnavailable("away", retry_after=1.0)]]
    slow = Config(coalesce_s=0.01, end_s=1.0, retry_s=30.0)
    run_id, worker = await b.begin("hello", queue="SIMPLE"), b.another(slow, classes=("SIMPLE",))
    assert await work(b, worker) == 1
    act_as(ALICE)
    await worker.cancel(ALICE, run_id)
    assert kinds(await ended(b, run_id))[-1] == "cancelled"
    await worker.close()


async def test_a_heavy_model_answers_only_in_runs_of_its_class(b):
    b.agent_is(model="heavy")
    config = Config(coalesce_s=0.01, end_s=1.0, gpu_models=("heavy",))
    b.runs, worker = b.another(config), b.another(config, classes=("GPU",))
    events = await ended(b, await b.begin("1"))
    assert events[-1].failed.error.code == 9
    run_id = await b.begin("2", queue="GPU")
    await work(b, worker, ("GPU",))
    assert kinds(await ended(b, run_id))[-1] == "completed"
    await worker.close()


async def test_a_tenant_gets_turns_by_its_weight(b):
    b.runs = b.another(Config(coalesce_s=0.01, end_s=1.0, tenant_weights=("acme=3",)))
    await b.begin("1", queue="SIMPLE")
    (claimed,) = await b.queue.claim(["SIMPLE"], 1, 1.0)
    assert claimed.item.weight == 3.0


@pytest.mark.parametrize("setting", ["acme", "acme=", "=2", "acme=0", "acme=-1", "acme=nan", "acme=101", "acme=many"])
def test_a_weight_that_is_none_is_refused(setting):
    with pytest.raises(ValueError, match="tenant_weights"):
        dispatch.read_weights([setting])
    with pytest.raises(ValueError, match="once for each tenant"):
        dispatch.read_weights(["acme=1", "acme=2"])
