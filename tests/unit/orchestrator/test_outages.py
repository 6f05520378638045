"""The store is away for longer than a run waits, or just when a run is to wait: no run is given up for that."""

import asyncio

import pytest

from services.kit.errors import ModelUnavailable, StoreUnavailable
from services.orchestrator.config import Config
from services.orchestrator.core import dispatch, live, takeover, untold
from services.orchestrator.core.patience import patiently
from services.orchestrator.core.untold import UntoldStops
from services.orchestrator.core.worker import Worker
from services.orchestrator.domain.agent import SideEffect, Tool
from services.orchestrator.domain.run import Answer
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds
from tests.support.waiting import until

QUICK = Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=0.3, retry_s=0.05, lease_s=0.05, owner_s=0.1)
AWAY_S = 0.05
STORE = ("append", "park", "let_go", "hold", "resume_turn", "abandon_turn", "commit_turn")
PAY = Tool("pay", "Pays.", {"type": "object"}, 5.0, SideEffect.SIDE_EFFECT)


async def shortly(work, away=(StoreUnavailable,), for_s=AWAY_S):
    return await patiently(work, away, for_s)


@pytest.fixture
async def b(monkeypatch):
    for module in (dispatch, live):
        monkeypatch.setattr(module, "patiently", shortly)
    monkeypatch.setattr("services.orchestrator.core.patience._RETRY_S", 0.005)
    monkeypatch.setattr(takeover, "BEAT_S", 0.05)
    monkeypatch.setattr(untold, "PAUSE_S", 0.05)
    monkeypatch.setattr(dispatch, "_LATER_S", 0.01)
    async with bench(config=QUICK, lease_s=0.05) as made:
        made.runs.start()
        yield made


class Away:
    """A method that is away for so many calls."""

    def __init__(self, method, calls):
        self._method, self.left = method, calls

    async def __call__(self, *arguments, **named):
        if self.left > 0:
            self.left -= 1
            raise StoreUnavailable("the store does not answer")
        return await self._method(*arguments, **named)


def goes_away(store, name, calls=10_000):
    """Has a method fail from now on."""
    setattr(store, name, Away(getattr(store, name), calls))
    return getattr(store, name)


async def ended(b, run_id):
    return await asyncio.wait_for(b.events(run_id), 5)


async def worked_on(b, worker):
    """A worker takes what its queue has, and stays with it as long as it is at work."""
    (claimed,) = await b.queue.claim(["SIMPLE"], 1, 2.0)
    await b.queue.done(claimed)
    act_as(ALICE)
    await (await worker.take(ALICE, SESSION, 1))


async def test_one_call_of_the_queue_that_fails_gives_no_run_up_that_may_be_tried_again(b):
    b.model.scripts = [[ModelUnavailable("no model answers", retry_after=1.0)], ["better"]]
    run_id, worker = await b.begin("hello", queue="SIMPLE"), b.another(QUICK, classes=("SIMPLE",))
    away = goes_away(b.queue, "put", 1)
    await worked_on(b, worker)
    assert (away.left, await b.dead_letters.page(ALICE, None, 10)) == (0, [])
    await worked_on(b, worker)
    assert (await ended(b, run_id))[-1].completed.answer == "better"
    await worker.close()


@pytest.mark.parametrize("away_s", [1.6 * AWAY_S, 4.0 * AWAY_S, 20 * AWAY_S])
async def test_a_run_of_the_queue_goes_on_when_a_store_is_back_that_was_away_for_longer_than_it_waits(b, away_s):
    b.agent_is(tools={"look": Tool("look", "Looks.", {"type": "object"}, 1.0)}, model_chooses_tools=True)
    b.model.scripts = [["half ", 0.02, b.calls("look")], ["whole"]]
    run_id, worker = await b.begin("hello", queue="SIMPLE"), b.another(QUICK, classes=("SIMPLE",))
    worker.start()
    places = dict(queues=["SIMPLE"], places=1, idle_s=30.0, retry_s=0.05, telemetry=b.telemetry)
    claiming = Worker(b.queue, worker.take, worker.give_up, **places)
    claiming.start()
    await until(lambda: b.model.asked)
    away = [goes_away(b.queue, "put"), *(goes_away(b.store, name) for name in STORE)]
    await asyncio.sleep(away_s)
    for each in away:
        each.left = 0
    assert (await ended(b, run_id))[-1].completed.answer.endswith("whole")
    assert await b.dead_letters.page(ALICE, None, 10) == []
    await claiming.drain(1.0)
    await worker.close()


@pytest.mark.parametrize("what", ["queue", "log"])
async def test_a_run_waits_for_its_approval_though_the_store_is_away_when_it_asks(b, what):
    b.agent_is(tools={"pay": PAY}, model_chooses_tools=True)
    b.tools.results = {"pay": ('{"paid": true}', False)}
    b.model.scripts = [[b.calls("pay")], ["paid"]]
    away = goes_away(b.queue, "put", 3) if what == "queue" else goes_away(b.store, "park", 3)
    run_id = await b.begin("pay it")
    asked = await ended(b, run_id)
    assert (away.left, kinds(asked)[-1]) == (0, "approval_required")
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, asked[-1].approval_required.approval_token, Answer(approved=True))
    assert (await ended(b, run_id))[-1].completed.answer == "paid"
    assert len(b.tools.calls) == 1


async def test_control_a_run_that_asks_fails_at_the_first_failure_where_nobody_waits_for_the_store(b, monkeypatch):
    async def at_once(work):
        return await work()

    monkeypatch.setattr(dispatch, "patiently", at_once)
    b.agent_is(tools={"pay": PAY}, model_chooses_tools=True)
    b.model.scripts = [[b.calls("pay")]]
    goes_away(b.queue, "put", 1)
    assert kinds(await ended(b, await b.begin("pay it")))[-1] == "failed"


async def test_control_a_run_that_asks_does_not_wait_for_the_store_for_ever(b):
    b.agent_is(tools={"pay": PAY}, model_chooses_tools=True)
    b.model.scripts = [[b.calls("pay")]]
    goes_away(b.queue, "put")
    assert kinds(await ended(b, await b.begin("pay it")))[-1] == "failed"


async def test_a_log_that_lost_its_end_just_before_its_run_waits_is_written_anew(b):
    b.agent_is(tools={"pay": PAY}, model_chooses_tools=True)
    b.model.scripts = [["I ask. ", 0.05, b.calls("pay")]]
    park = b.store.park

    async def after_a_failover(principal, turn, *rest):
        b.store.park = park
        assert b.store._run(ALICE, turn.run_id).entries
        b.store._run(ALICE, turn.run_id).entries.clear()
        return await park(principal, turn, *rest)

    b.store.park = after_a_failover
    events = await ended(b, await b.begin("pay it"))
    assert kinds(events)[-1] == "approval_required"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize("here", [True, False], ids=["at work here", "at work elsewhere"])
@pytest.mark.parametrize("kept", [True, False], ids=["guarded", "control"])
async def test_a_client_that_left_while_the_store_was_away_for_long_stops_its_run_when_it_is_back(
    b, monkeypatch, kept, here
):
    if not kept:
        monkeypatch.setattr(untold, "_MOST", 0)
    b.model.scripts = [["on ", 0.5, "and on"]]
    told = b.runs if here else b.another(QUICK)
    run_id = await b.begin("hello")
    await until(lambda: b.model.asked)
    away = [goes_away(b.store, name) for name in ("request_cancel", *(STORE if here else ()))]
    await told.leave(ALICE, run_id)
    if here:
        with pytest.raises(StoreUnavailable):
            await ended(b, run_id)
    await asyncio.sleep(4 * AWAY_S)
    for each in away[1:]:
        each.left = 0
    await asyncio.sleep(4 * AWAY_S)
    assert kept is False or len(b.model.asked) == 1  # nobody goes on with it before who does is to know
    away[0].left = 0
    await until(lambda: b.store._run(ALICE, run_id).over)
    assert kinds(await ended(b, run_id))[-1] == ("cancelled" if kept else "completed")
    await told.close()


async def test_who_left_a_run_that_is_no_more_is_forgotten(b):
    stops = b.runs._untold
    for run_id in (f"{SESSION}.1", "other.1"):
        stops.keep(ALICE, run_id)
    await until(lambda: not stops._runs)
    assert stops._task is not None
    await asyncio.wait_for(stops._task, 1)


async def test_of_stops_that_cannot_be_told_so_many_are_kept_and_one_holds_up_no_other(monkeypatch):
    monkeypatch.setattr(untold, "PAUSE_S", 0.005)
    monkeypatch.setattr(untold, "_MOST", 3)
    told, away = [], {"s.1"}

    async def stop(_principal, run_id):
        if run_id in away:
            raise StoreUnavailable("it does not answer")
        told.append(run_id)

    stops = UntoldStops(stop)
    for number in range(1, 5):
        stops.keep(ALICE, f"s.{number}")
    await until(lambda: told == ["s.2", "s.3"])
    away.clear()
    await until(lambda: told == ["s.2", "s.3", "s.1"])
    await stops.close()
