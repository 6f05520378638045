"""The worker: what it claims, begins, puts back and gives up."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from services.kit.call import Principal, current_principal
from services.kit.errors import (
    AgentNotFound,
    ResourceExhausted,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
    StoreUnavailable,
)
from services.kit.hints import RunHint
from services.kit.queue import Item, Stats
from services.kit.queue_inmemory import InMemoryQueue, InMemoryQueues
from services.kit.telemetry import open_telemetry
from services.orchestrator.core.worker import MAX_DELIVERIES, Worker
from tests.support.waiting import until

Q = "SIMPLE"
IDLE_S = 0.3


class Runs:
    """What a worker works with: runs that last until they are told to end."""

    def __init__(self):
        self.begun, self.given_up, self.seen = [], [], []
        self.refusals, self.ends = [], []
        self.hold = asyncio.Event()
        self.hold.set()

    async def take(self, principal, session_id, run):
        self.seen.append((current_principal(), principal, session_id, run))
        await self.hold.wait()
        if self.refusals:
            refusal = self.refusals.pop(0)
            if refusal is not None:
                raise refusal
        self.begun.append((session_id, run))
        self.ends.append(asyncio.get_running_loop().create_future())
        return self.ends[-1]

    async def give_up(self, principal, session_id, run, error):
        if self.refusals:
            raise self.refusals.pop(0)
        self.given_up.append((principal, session_id, run, error.reason))

    def end(self, how=None):
        self.ends.pop(0).set_exception(how) if how else self.ends.pop(0).set_result(None)


def silent():
    return open_telemetry("test", "", 0.0)


@asynccontextmanager
async def at_work(*items, runs=None, queues=(Q,), places=2, retry_s=0.02, telemetry=None):
    """A worker at work on a queue with these items."""
    queue = InMemoryQueue(InMemoryQueues(), IDLE_S)
    await queue.put(Q, items)
    runs, telemetry = runs or Runs(), telemetry or silent()
    worker = Worker(
        queue,
        runs.take,
        runs.give_up,
        queues=queues,
        places=places,
        idle_s=IDLE_S,
        retry_s=retry_s,
        telemetry=telemetry,
    )
    worker.start()
    try:
        yield runs, queue, worker
    finally:
        await worker.drain(0)


def hint(number, session="s", user="alice"):
    return RunHint("acme", user, f"{session}{number}", 1).item()


async def until_empty(queue):
    async def empty():
        return await queue.stats(Q) == Stats()

    await until(empty)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"{}", b"[]", b'["t","u","s",0]', b'["t","","s",1]', b'["t","u","s","1"]', b'["t","u",1,1]']
)
async def test_poison_is_kept_for_people_and_harms_nobody(body):
    async with at_work(Item("poison", "acme", body, priority=9), hint(1)) as (runs, queue, _):
        await until(lambda: runs.begun)
        assert (runs.begun, runs.given_up) == ([("s1", 1)], [])

        async def only_kept():
            return await queue.stats(Q) == Stats(dead=1)

        await until(only_kept)
        assert [item.body for item in queue._shared.dead[Q]] == [body]


async def test_a_run_is_done_for_the_queue_as_soon_as_it_is_at_work():
    async with at_work(hint(1)) as (runs, queue, _):
        await until(lambda: runs.begun)
        await until_empty(queue)
        alice = Principal("acme", "alice")
        assert runs.seen == [(alice, alice, "s1", 1)]


async def test_a_worker_claims_no_more_than_it_has_places_for():
    async with at_work(*(hint(n) for n in range(5)), places=2) as (runs, queue, _):
        await until(lambda: len(runs.begun) == 2)
        await asyncio.sleep(0.05)
        stats = await queue.stats(Q)
        assert (len(runs.begun), stats.waiting, stats.claimed) == (2, 3, 0)
        runs.end()
        await until(lambda: len(runs.begun) == 3)
        runs.end(RuntimeError("the run broke"))
        await until(lambda: len(runs.begun) == 4)


async def test_a_run_that_is_slow_to_begin_is_not_claimed_by_another():
    async with at_work(hint(1)) as (runs, queue, _):
        runs.hold.clear()
        await until(lambda: runs.seen)
        await asyncio.sleep(2 * IDLE_S)
        assert await queue.claim([Q], 1, 0) == []
        runs.hold.set()
        await until(lambda: runs.begun)
        await until_empty(queue)


@pytest.mark.parametrize("over", [RunNotFound("over"), SessionNotFound("gone")], ids=lambda error: error.reason)
async def test_a_run_that_is_over_is_done(over):
    runs = Runs()
    runs.refusals = [over]
    async with at_work(hint(1), runs=runs) as (_, queue, _):
        await until(lambda: runs.seen and not runs.refusals)
        await until_empty(queue)
        assert runs.begun == []


async def test_a_run_whose_session_is_busy_waits_until_it_is_put_again():
    runs = Runs()
    runs.refusals = [SessionBusy("busy")]
    async with at_work(hint(1), runs=runs) as (_, queue, _):
        await until(lambda: not runs.refusals)
        await asyncio.sleep(0.1)
        assert (runs.begun, (await queue.stats(Q)).delayed) == ([], 1)
        await queue.put(Q, [hint(1)])
        await until(lambda: runs.begun)


async def test_a_store_that_is_away_costs_a_run_none_of_its_deliveries():
    runs = Runs()
    away = [StoreUnavailable("away", retry_after=0.005), ResourceExhausted("full", retry_after=0.005)]
    runs.refusals = away * MAX_DELIVERIES
    async with at_work(hint(1), runs=runs) as (_, queue, _):
        await until(lambda: runs.begun)
        await until_empty(queue)
        assert runs.given_up == []


@pytest.mark.parametrize("error", [AgentNotFound("no agent"), RuntimeError("broken")], ids=repr)
async def test_a_run_that_cannot_be_begun_is_given_up_after_its_deliveries(error):
    runs = Runs()
    runs.refusals = [error] * MAX_DELIVERIES
    async with at_work(hint(1), runs=runs) as (_, queue, _):
        await until(lambda: runs.given_up)
        await until_empty(queue)
        assert (runs.begun, len(runs.seen)) == ([], MAX_DELIVERIES)


async def test_a_run_that_kills_its_workers_is_given_up():
    queue = InMemoryQueue(InMemoryQueues(), 0.0)
    await queue.put(Q, [hint(1)])
    for _ in range(MAX_DELIVERIES):
        assert await queue.claim([Q], 1, 1.0)
        await asyncio.sleep(0.001)
    runs = Runs()
    runs.refusals = [StoreUnavailable("away")]
    worker = Worker(
        queue, runs.take, runs.give_up, queues=[Q], places=1, idle_s=IDLE_S, retry_s=0.02, telemetry=silent()
    )
    worker.start()
    await until(lambda: runs.given_up)
    await worker.drain(0.5)
    assert (runs.seen, runs.given_up) == ([], [(Principal("acme", "alice"), "s1", 1, "ABORTED")])
    await until_empty(queue)


async def test_a_worker_goes_on_when_its_queue_is_back(monkeypatch):
    monkeypatch.setattr("services.orchestrator.core.worker._PAUSE_S", 0.01)
    queue = InMemoryQueue(InMemoryQueues(), IDLE_S)
    claim, failures = queue.claim, [StoreUnavailable("away"), RuntimeError("broken")]

    async def fails(*arguments):
        if failures:
            raise failures.pop(0)
        return await claim(*arguments)

    queue.claim = fails
    await queue.put(Q, [hint(1)])
    runs = Runs()
    worker = Worker(
        queue, runs.take, runs.give_up, queues=[Q], places=1, idle_s=IDLE_S, retry_s=0.02, telemetry=silent()
    )
    worker.start()
    await until(lambda: runs.begun)
    await worker.drain(0)


async def test_a_claim_that_cannot_be_ended_keeps_its_place_as_long_as_the_run_is_at_work():
    queue = InMemoryQueue(InMemoryQueues(), IDLE_S)

    async def away(claimed):
        raise StoreUnavailable("away")

    queue.done = away
    await queue.put(Q, [hint(1), hint(2)])
    runs = Runs()
    worker = Worker(
        queue, runs.take, runs.give_up, queues=[Q], places=1, idle_s=IDLE_S, retry_s=0.02, telemetry=silent()
    )
    worker.start()
    await until(lambda: runs.begun)
    await asyncio.sleep(0.05)
    assert len(runs.begun) == 1
    await worker.drain(0)


async def test_a_worker_that_is_drained_claims_nothing_more_and_loses_nothing():
    async with at_work(*(hint(n) for n in range(6)), places=3) as (runs, queue, worker):
        runs.hold.clear()
        await until(lambda: len(runs.seen) == 3)
        draining = asyncio.create_task(worker.drain(1.0))
        await asyncio.sleep(0.01)
        runs.hold.set()
        await until(lambda: len(runs.begun) == 3)
        assert not draining.done()
        for _ in range(3):
            runs.end()
        await draining
        stats = await queue.stats(Q)
        assert (len(runs.begun), stats.waiting, stats.claimed) == (3, 3, 0)


async def test_what_was_claimed_and_not_begun_is_put_back_at_once():
    queue = InMemoryQueue(InMemoryQueues(), IDLE_S)
    claim, drained = queue.claim, []

    async def claims_late(*arguments):
        claimed = await claim(*arguments)
        if claimed:
            drained.append(asyncio.create_task(worker.drain(0.5)))
        return claimed

    queue.claim = claims_late
    await queue.put(Q, [hint(1)])
    runs = Runs()
    worker = Worker(
        queue, runs.take, runs.give_up, queues=[Q], places=1, idle_s=IDLE_S, retry_s=0.02, telemetry=silent()
    )
    runs.hold.clear()
    worker.start()
    await until(lambda: drained)
    runs.hold.set()
    await drained[0]
    left = (await queue.stats(Q)).waiting
    assert len(runs.begun) + left == 1


async def test_drain_waits_no_longer_than_it_may():
    async with at_work(hint(1)) as (runs, _, worker):
        await until(lambda: runs.begun)
        began = asyncio.get_running_loop().time()
        await worker.drain(0.05)
        assert asyncio.get_running_loop().time() - began < 0.5


async def test_a_worker_claims_from_its_own_queues_only():
    async with at_work(hint(1), queues=("GPU",)) as (runs, queue, _):
        await queue.put("GPU", [hint(2)])
        await until(lambda: runs.begun)
        await asyncio.sleep(0.05)
        assert (runs.begun, (await queue.stats(Q)).waiting) == ([("s2", 1)], 1)


async def test_a_claim_that_cannot_be_held_on_keeps_its_place_and_is_seen_to_its_end():
    queue = InMemoryQueue(InMemoryQueues(), IDLE_S)
    extend, failures = queue.extend, [StoreUnavailable("away")] * 2

    async def fails(claimed):
        if failures:
            raise failures.pop()
        return await extend(claimed)

    queue.extend = fails
    await queue.put(Q, [hint(1), hint(2)])
    runs = Runs()
    runs.hold.clear()
    worker = Worker(
        queue, runs.take, runs.give_up, queues=[Q], places=1, idle_s=IDLE_S, retry_s=0.02, telemetry=silent()
    )
    worker.start()
    await until(lambda: not failures)
    await asyncio.sleep(0.05)
    assert len(runs.seen) == 1
    runs.hold.set()
    await until(lambda: runs.begun)
    await worker.drain(0)
    assert (await queue.stats(Q)).claimed == 0


async def test_a_run_that_is_not_due_yet_is_looked_at_when_its_session_says_that_it_is():
    runs = Runs()
    runs.refusals = [SessionBusy("it is due in a moment", retry_after=0.03)]
    async with at_work(hint(1), runs=runs):
        await until(lambda: runs.begun)


async def test_a_run_that_is_due_much_later_is_looked_at_in_between(monkeypatch):
    monkeypatch.setattr("services.orchestrator.core.worker._BUSY_S", 0.03)
    runs = Runs()
    runs.refusals = [SessionBusy("it is due tomorrow", retry_after=86_400.0)]
    async with at_work(hint(1), runs=runs):
        await until(lambda: runs.begun)
