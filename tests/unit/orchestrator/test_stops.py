"""Many runs that are stopped at once, and runs that are stopped from elsewhere."""

import asyncio
from contextlib import asynccontextmanager, nullcontext

import pytest

from services.kit.errors import LeaseLost, StoreUnavailable
from services.orchestrator.config import Config
from services.orchestrator.core import takeover
from services.orchestrator.core.finishing import Finishing
from services.orchestrator.domain.run import Stop
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds
from tests.support.waiting import until

MANY = 150
AT_ONCE = 16
A_FEW = 4
NEVER_S = 60.0


@pytest.fixture
async def b():
    async with bench(config=Config(lease_s=4 * NEVER_S, coalesce_s=0.01, end_s=5.0)) as made:
        made.model.scripts = (("I am thinking ", NEVER_S),)
        yield made


class Ends:
    """Counts how many turns come to their end at the same time, and how many models had stopped when each did."""

    def __init__(self, store, model):
        self.now = self.most = 0
        self.stopped = []
        self._model = model
        self._commit = store.commit_turn
        store.commit_turn = self

    async def __call__(self, *args, **named):
        self.now += 1
        self.stopped.append(self._model.stopped)
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        return await self._commit(*args, **named)


async def talking(b, count):
    """So many runs whose model has begun to speak."""
    for number in range(count):
        b.store.add_session(ALICE, f"many{number}", "aura")
    run_ids = [await b.begin(session=f"many{number}") for number in range(count)]
    await until(lambda: len(b.model.asked) == count)
    return run_ids


class NoLimit:
    """The control: an end waits for nothing."""

    @staticmethod
    def place():
        return nullcontext()


@pytest.mark.parametrize("limited", [True, False])
async def test_when_many_stop_at_once_first_their_models_do_and_then_their_logs_end_a_few_at_a_time(b, limited):
    ends = Ends(b.store, b.model)
    if not limited:
        b.runs._driver._stop_waves = NoLimit
    run_ids = await talking(b, MANY)
    await asyncio.sleep(0.05)
    for run_id in run_ids:
        await b.runs.cancel(ALICE, run_id)
    for run_id in run_ids:
        assert kinds(await asyncio.wait_for(b.events(run_id), 5))[-1] == "cancelled"
    assert (ends.most == AT_ONCE) == limited
    assert b.model.stopped == MANY
    if limited:  # those that came first wait for nothing, the others until no more stop
        assert set(ends.stopped[A_FEW:]) == {MANY}


async def test_a_silent_run_stops_as_soon_as_there_is_word_from_elsewhere(b):
    b.runs.start()
    (run_id,) = await talking(b, 1)
    await b.another().cancel(ALICE, run_id)
    assert kinds(await asyncio.wait_for(b.events(run_id), 1))[-1] == "cancelled"


async def test_word_of_a_stop_that_the_store_does_not_know_changes_nothing(b):
    b.runs.start()
    (run_id,) = await talking(b, 1)
    for tenant, which in ((ALICE.tenant, run_id), (ALICE.tenant, "other.1"), ("evil", run_id)):
        b.runs._driver.hear_of_stop(tenant, which)
    await asyncio.sleep(0.05)
    assert b.model.stopped == 0


@pytest.mark.parametrize("passed_on", [True, False], ids=["guarded", "control"])
async def test_a_run_told_to_stop_while_it_is_handed_over_stops_where_it_goes_on(b, monkeypatch, passed_on):
    if not passed_on:
        monkeypatch.setattr(Finishing, "stop_elsewhere", lambda _finishing, _run: asyncio.sleep(0))
    (run_id,) = await talking(b, 1)
    run, let_go = b.runs._driver.find(ALICE, run_id), b.store.let_go

    async def told_meanwhile(*which):
        run.stop()
        await let_go(*which)

    b.store.let_go = told_meanwhile
    await b.runs.close()
    b.model.scripts, b.store.let_go = [["all of it"]], let_go
    other = b.another(Config(coalesce_s=0.01))
    other._takeover.go_on(ALICE, "many0")
    events = await asyncio.wait_for(b.events(run_id, runs=other), 5)
    assert kinds(events)[-1] == ("cancelled" if passed_on else "completed")
    await other.close()


class Killed:
    """The store as a process sees it that is killed before it has written how its run ends."""

    def __init__(self, store):
        self._store, self.buried = store, asyncio.Event()

    def __getattr__(self, name):
        return self._dies if name in ("commit_turn", "abandon_turn") else getattr(self._store, name)

    async def _dies(self, *_):
        await self.buried.wait()
        raise LeaseLost("this process is dead")


@pytest.mark.parametrize(
    ("told", "last"), [("cancel", "cancelled"), ("leave", "completed")], ids=["guarded", "control: nobody was told"]
)
async def test_a_stop_that_was_acknowledged_counts_though_its_process_is_killed_at_once(b, told, last):
    killed = Killed(b.store)
    doomed = b.another(memory=killed)
    run_id = await b.begin(runs=doomed)
    await until(lambda: b.model.asked)
    await getattr(doomed, told)(ALICE, run_id)
    assert doomed._driver.find(ALICE, run_id).stop_requested
    doomed._driver._holding.close()
    b.store._run(ALICE, run_id).lease_ends = 0.0
    b.model.scripts = [["All of it."]]
    act_as(ALICE)
    await b.runs.resume(ALICE, SESSION)
    assert kinds(await asyncio.wait_for(b.events(run_id), 1))[-1] == last
    killed.buried.set()
    await doomed.close()


async def test_a_stop_that_the_store_does_not_know_of_is_not_acknowledged_but_stops_the_model(b):
    async def away(*_):
        raise StoreUnavailable("it does not answer")

    (run_id,) = await talking(b, 1)
    b.store.request_cancel = away
    with pytest.raises(StoreUnavailable):
        await b.runs.cancel(ALICE, run_id)
    await until(lambda: b.model.stopped)


async def test_who_hangs_up_costs_no_word_to_the_store_but_the_end(b):
    asked = []
    b.store.request_cancel = lambda *args: asked.append(args)
    (run_id,) = await talking(b, 1)
    await b.runs.leave(ALICE, run_id)
    assert kinds(await asyncio.wait_for(b.events(run_id), 1))[-1] == "cancelled"
    assert not asked


async def test_a_stop_is_not_forgotten_when_the_store_was_away_for_longer_than_an_end_may_take(monkeypatch):
    monkeypatch.setattr(takeover, "BEAT_S", 0.05)
    async with bench(config=Config(lease_s=0.05, coalesce_s=0.01, end_s=0.1), lease_s=0.05) as b:
        b.model.scripts = (("I am thinking ", NEVER_S),)
        (run_id,) = await talking(b, 1)
        names = ("append", "hold", "commit_turn", "abandon_turn", "request_cancel", "resume_turn")
        store = {name: getattr(b.store, name) for name in names}

        async def away(*_):
            raise StoreUnavailable("it does not answer")

        for name in names:
            setattr(b.store, name, away)
        await b.runs.leave(ALICE, run_id)
        with pytest.raises(StoreUnavailable):
            await b.events(run_id)
        b.model.scripts = [["All of it."]]
        for name in names:
            setattr(b.store, name, store[name])
        await until(lambda: b.store._run(ALICE, run_id).over)
        assert kinds(await b.events(run_id))[-1] == "cancelled"


async def test_a_run_that_is_to_leave_no_trace_leaves_none_though_it_is_cancelled_too(b):
    (run_id,) = await talking(b, 1)
    b.runs._driver.find(ALICE, run_id).stop(Stop.ROLL_BACK)
    await b.runs.cancel(ALICE, run_id)
    last = (await asyncio.wait_for(b.events(run_id), 1))[-1]
    assert last.cancelled.rolled_back
    assert b.store.history(ALICE, "many0") == []


async def test_a_run_that_is_ending_and_is_then_to_leave_no_trace_says_and_does_the_same(b):
    ending, told = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def place():
        ending.set()
        await told.wait()
        yield

    (run_id,) = await talking(b, 1)
    run = b.runs._driver.find(ALICE, run_id)
    b.runs._driver._stop_waves.place = place
    await b.runs.cancel(ALICE, run_id)
    await ending.wait()
    run.held(Stop.ROLL_BACK)
    told.set()
    last = (await asyncio.wait_for(b.events(run_id), 1))[-1]
    assert last.cancelled.rolled_back
    assert b.store.history(ALICE, "many0") == []
