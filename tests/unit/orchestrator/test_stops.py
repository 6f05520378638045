"""Many runs that are stopped at once, and runs that are stopped from elsewhere."""

import asyncio
from contextlib import nullcontext

import pytest

from services.orchestrator.config import Config
from tests.support.orchestrator import ALICE, bench, kinds
from tests.support.waiting import until

MANY = 150
AT_ONCE = 16
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
        assert set(ends.stopped[AT_ONCE:]) == {MANY}


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
