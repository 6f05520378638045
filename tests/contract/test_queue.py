"""Queue: one list of behaviours for the fake, one Redis and a cluster of three primaries."""

import asyncio
import time
import uuid
from collections import Counter

import pytest

from services.kit.errors import QueueFull
from services.kit.keys import QueueKeys
from services.kit.queue import MOST_DEAD, Item, Stats
from services.kit.queue_inmemory import InMemoryQueue, InMemoryQueues
from services.kit.queue_redis import RedisQueue

IDLE_S = 0.4
WOKEN_S = 2.0
"""Less than any worker waits here that nobody wakes: it would look again after five seconds."""
MAX = 2000


class Workers:
    """Makes workers, and two queues that nobody else uses."""

    def __init__(self, make):
        self._make = make
        self._made = []
        self.q, self.other = f"q{uuid.uuid4().hex}", f"o{uuid.uuid4().hex}"

    def __call__(self, idle_s=10.0):
        self._made.append(self._make(idle_s))
        return self._made[-1]

    async def close(self):
        for worker in self._made:
            await worker.close()


@pytest.fixture(params=["memory", "one", "cluster"])
async def workers(request, one, cluster):
    shared = InMemoryQueues()
    redis = {"one": one, "cluster": cluster}.get(request.param)
    make = Workers(
        lambda idle_s: RedisQueue(redis, uuid.uuid4().hex, idle_s, MAX) if redis else InMemoryQueue(shared, idle_s, MAX)
    )
    yield make
    await make.close()
    if redis:
        for queue in (make.q, make.other):
            await redis.execute("UNLINK", *QueueKeys(queue).all)


def item(id, tenant="acme", **facts):
    return Item(id, tenant, facts.pop("body", b"look"), **facts)


def ids(claimed):
    return [each.item.id for each in claimed]


async def drain(worker, queue, each=1):
    """Claims and finishes all there is, in its order."""
    found = []
    while claimed := await worker.claim([queue], each, 0):
        for one in claimed:
            assert await worker.done(one)
        found += claimed
    return found


@pytest.mark.parametrize(
    "wrong",
    [{"priority": -1}, {"priority": 10}, {"weight": 0}, {"weight": 101}, {"due_ms": -1}, {"tenant": ""}],
    ids=str,
)
def test_an_item_that_no_queue_could_order_is_none(wrong):
    with pytest.raises(ValueError, match=r"item needs|priority is"):
        item("a", **wrong)


async def test_what_was_put_is_claimed_as_it_was_put_once(workers):
    worker, other = workers(), workers()
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    hostile = Item(
        "a/b c\n{}\u0142", "te/na:nt\u0142", bytes(range(256)), 3, due_ms=1000, weight=0.5, traceparent=trace
    )
    await worker.put(workers.q, [hostile])
    (claimed,) = await other.claim([workers.q], 10, 0)
    assert (claimed.queue, claimed.item, claimed.deliveries) == (workers.q, hostile, 1)
    assert await worker.claim([workers.q], 10, 0) == []
    assert await other.done(claimed)
    assert await worker.stats(workers.q) == Stats()


async def test_nothing_is_claimed_of_a_queue_that_never_was(workers):
    worker = workers()
    assert await worker.claim([workers.q], 1, 0) == []
    assert await worker.stats(workers.q) == Stats()
    assert not await worker.remove(workers.q, "a")


async def test_the_same_id_waits_once(workers):
    worker = workers()
    await worker.put(workers.q, [item("a"), item("a", body=b"second")])
    await worker.put(workers.q, [item("a", body=b"third")])
    assert [claimed.item.body for claimed in await drain(worker, workers.q)] == [b"look"]


async def test_an_id_put_while_it_is_claimed_waits_anew_when_that_claim_is_done(workers):
    worker = workers()
    await worker.put(workers.q, [item("a")])
    (claimed,) = await worker.claim([workers.q], 1, 0)
    await worker.put(workers.q, [item("a", body=b"anew")])
    assert await worker.claim([workers.q], 1, 0) == []
    assert await worker.done(claimed)
    (again,) = await worker.claim([workers.q], 1, 0)
    assert (again.item.body, again.deliveries) == (b"anew", 1)
    assert await worker.done(again)
    assert await worker.claim([workers.q], 1, 0) == []


async def test_an_id_put_while_it_is_claimed_does_not_wait_for_the_delay_of_that_claim(workers):
    worker = workers()
    await worker.put(workers.q, [item("a")])
    (claimed,) = await worker.claim([workers.q], 1, 0)
    await worker.put(workers.q, [item("a", body=b"anew")])
    assert await worker.put_back(claimed, 60.0)
    assert [each.item.body for each in await drain(worker, workers.q)] == [b"anew"]


async def test_an_id_that_is_not_due_is_due_when_it_is_put_with_an_earlier_time(workers):
    worker = workers()
    later = int((time.time() + 60) * 1000)
    await worker.put(workers.q, [item("a", due_ms=later), item("b", due_ms=later)])
    await worker.put(workers.q, [item("a"), item("b", due_ms=later + 1000), item("b", tenant="evil")])
    assert ids(await drain(worker, workers.q)) == ["a"]
    assert (await worker.stats(workers.q)).delayed == 1


async def test_another_tenant_cannot_put_itself_in_the_place_of_an_id(workers):
    worker = workers()
    await worker.put(workers.q, [item("a")])
    await worker.put(workers.q, [item("a", tenant="evil", body=b"evil")])
    (claimed,) = await worker.claim([workers.q], 1, 0)
    await worker.put(workers.q, [item("a", tenant="evil", body=b"evil")])
    assert (claimed.item.tenant, await worker.done(claimed)) == ("acme", True)
    assert await worker.claim([workers.q], 1, 0) == []


async def test_the_highest_priority_comes_first_and_of_equals_the_first(workers):
    worker = workers()
    await worker.put(workers.q, [item(f"p{p}-{n}", priority=p) for n in range(2) for p in (0, 5, 9, 4)])
    assert ids(await drain(worker, workers.q)) == [f"p{p}-{n}" for p in (9, 5, 4, 0) for n in range(2)]


async def test_a_thousand_of_one_tenant_delay_anothers_first_by_one_a_worker(workers):
    first, second = workers(), workers()
    await first.put(workers.q, [item(f"heavy{n}", "heavy", priority=9) for n in range(1000)])
    for n in range(5):
        assert ids(await (first, second)[n % 2].claim([workers.q], 1, 0)) == [f"heavy{n}"]
    await first.put(workers.q, [item("light0", "light", priority=0), item("light1", "light", priority=0)])
    claimed = [*await first.claim([workers.q], 1, 0), *await second.claim([workers.q], 1, 0)]
    assert "light0" in ids(claimed)
    rest = Counter(each.item.tenant for each in await first.claim([workers.q], 4, 0))
    assert rest["heavy"] == 3
    assert rest["light"] == 1


async def test_a_tenant_that_puts_one_at_a_time_does_not_starve_the_others(workers):
    worker = workers()
    await worker.put(workers.q, [item(f"heavy{n}", "heavy") for n in range(20)])
    served = Counter()
    for n in range(20):
        await worker.put(workers.q, [item(f"aaa{n}", "aaa")])
        (claimed,) = await worker.claim([workers.q], 1, 0)
        served[claimed.item.tenant] += 1
        assert await worker.done(claimed)
    assert served == {"heavy": 10, "aaa": 10}


async def test_a_tenant_is_not_paid_for_having_been_away(workers):
    worker = workers()
    await worker.put(workers.q, [item("early", "away")])
    await drain(worker, workers.q)
    await worker.put(workers.q, [item(f"heavy{n}", "heavy") for n in range(40)])
    for _ in range(20):
        await worker.done((await worker.claim([workers.q], 1, 0))[0])
    await worker.put(workers.q, [item(f"away{n}", "away") for n in range(20)])
    assert Counter(each.item.tenant for each in await worker.claim([workers.q], 10, 0)) == {"heavy": 5, "away": 5}


async def test_a_tenant_of_twice_the_weight_gets_twice_the_turns(workers):
    worker = workers()
    for tenant, weight in (("small", 1.0), ("large", 2.0)):
        await worker.put(workers.q, [item(f"{tenant}{n}", tenant, weight=weight) for n in range(30)])
    turns = Counter(each.item.tenant for each in await worker.claim([workers.q], 30, 0))
    assert abs(turns["large"] - 20) <= 1


async def test_tenants_whose_names_begin_alike_keep_apart(workers):
    worker = workers()
    many = {"a": 1, "a4": 3, "a/": 1, "a/4": 3, "1:a": 1, "1:a/4": 3}
    wanted = [(f"{name}-{n}", name) for name in many for n in range(many[name])]
    await worker.put(workers.q, [item(*each) for each in wanted])
    claimed = await drain(worker, workers.q)
    assert Counter(each.item.tenant for each in claimed[: len(many)]) == Counter(list(many))
    assert sorted((each.item.id, each.item.tenant) for each in claimed) == sorted(wanted)


async def test_what_is_not_due_is_not_claimed_and_wakes_the_worker_when_it_is(workers):
    worker = workers()
    due = time.time() + 0.6
    await worker.put(workers.q, [item("later", due_ms=int(due * 1000)), item("much", due_ms=int((due + 60) * 1000))])
    await worker.put(workers.q, [item("soon", after_ms=300)])
    assert (await worker.stats(workers.q)).delayed == 3
    assert await worker.claim([workers.q], 1, 0.02) == []
    assert ids(await worker.claim([workers.q], 2, 5.0)) == ["soon"]
    assert ids(await worker.claim([workers.q], 2, 5.0)) == ["later"]
    assert -0.01 <= time.time() - due < WOKEN_S
    assert (await worker.stats(workers.q)).delayed == 1


async def test_a_worker_that_waits_for_what_is_due_late_is_woken_by_what_is_due_before(workers):
    worker, producer = workers(), workers()
    await producer.put(workers.q, [item("late", due_ms=int((time.time() + 60) * 1000))])
    waiting = asyncio.create_task(worker.claim([workers.q], 1, 5.0))
    await asyncio.sleep(0.1)
    due = time.time() + 0.2
    await producer.put(workers.q, [item("later", due_ms=int((due + 90) * 1000)), item("soon", due_ms=int(due * 1000))])
    assert ids(await waiting) == ["soon"]
    assert -0.01 <= time.time() - due < WOKEN_S


async def test_a_worker_that_waits_is_woken_by_a_put_into_any_of_its_queues(workers):
    worker, producer = workers(), workers()
    for queue in (workers.other, workers.q, workers.other):
        waiting = asyncio.create_task(worker.claim([workers.q, workers.other], 4, 5.0))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await producer.put(queue, [item("a")])
        (claimed,) = await waiting
        assert time.monotonic() - began < WOKEN_S
        assert (claimed.queue, await worker.done(claimed)) == (queue, True)


async def test_what_is_put_between_two_waits_is_found_at_once(workers):
    worker, producer = workers(), workers()
    for n in range(30):
        await producer.put(workers.q, [item(f"a{n}")])
        (claimed,) = await worker.claim([workers.q], 1, 5.0)
        assert await worker.done(claimed)
        waiting = asyncio.create_task(worker.claim([workers.q], 1, 5.0))
        await asyncio.sleep(0.001 * (n % 5))
        await producer.put(workers.q, [item(f"b{n}")])
        began = time.monotonic()
        (claimed,) = await waiting
        assert time.monotonic() - began < WOKEN_S
        assert await worker.done(claimed)


async def test_a_wait_ends_with_nothing_in_time(workers):
    worker = workers()
    began = time.monotonic()
    assert await worker.claim([workers.q, workers.other], 1, 0.2) == []
    assert 0.19 <= time.monotonic() - began < WOKEN_S


async def test_a_full_queue_does_not_keep_its_workers_from_another(workers):
    worker = workers()
    await worker.put(workers.q, [item(f"a{n}") for n in range(50)])
    await worker.put(workers.other, [item("b")])
    claimed = [each for _ in range(2) for each in await worker.claim([workers.q, workers.other], 1, 0)]
    assert Counter(each.queue for each in claimed) == {workers.q: 1, workers.other: 1}


async def test_items_of_a_worker_that_is_gone_are_claimed_by_another_in_twice_the_idle_time(workers):
    idle_s = 2 * IDLE_S
    gone, taker = workers(idle_s), workers(idle_s)
    await gone.put(workers.q, [item("a"), item("b")])
    assert len(await gone.claim([workers.q], 2, 0)) == 2
    began = time.monotonic()
    assert await taker.claim([workers.q], 2, idle_s / 2) == []
    claimed = await taker.claim([workers.q], 2, 5.0)
    assert idle_s * 0.9 <= time.monotonic() - began < 2 * idle_s
    assert sorted(ids(claimed)) == ["a", "b"]
    assert [each.deliveries for each in claimed] == [2, 2]


async def test_a_worker_that_says_it_is_at_it_keeps_its_item(workers):
    slow, taker = workers(2 * IDLE_S), workers(2 * IDLE_S)
    await slow.put(workers.q, [item("a")])
    (claimed,) = await slow.claim([workers.q], 1, 0)
    for _ in range(5):
        await asyncio.sleep(IDLE_S / 2)
        assert await slow.extend(claimed)
        assert await taker.claim([workers.q], 1, 0) == []
    assert await slow.done(claimed)


async def test_a_worker_whose_item_was_taken_over_changes_nothing_any_more(workers):
    slow, taker = workers(), workers(IDLE_S)
    await slow.put(workers.q, [item("a")])
    (stale,) = await slow.claim([workers.q], 1, 0)
    await asyncio.sleep(IDLE_S + 0.05)
    (claimed,) = await taker.claim([workers.q], 1, 5.0)
    assert not await slow.extend(stale)
    assert not await slow.done(stale)
    assert not await slow.put_back(stale, 0)
    assert await taker.claim([workers.q], 1, 0) == []
    assert await taker.done(claimed)
    await taker.put(workers.q, [item("a")])
    (new,) = await taker.claim([workers.q], 1, 0)
    assert new.deliveries == stale.deliveries
    assert not await slow.done(stale)
    assert await taker.done(new)


async def test_a_poisonous_item_counts_its_deliveries_and_holds_up_nobody(workers):
    worker = workers(IDLE_S)
    await worker.put(workers.q, [item("poison", priority=9)])
    for delivery in range(1, 5):
        (poison,) = await worker.claim([workers.q], 1, 5.0)
        assert (poison.item.id, poison.deliveries) == ("poison", delivery)
        await worker.put(workers.q, [item(f"good{delivery}", priority=0)])
        assert ids(await drain(worker, workers.q)) == [f"good{delivery}"]
        if delivery % 2:
            assert await worker.put_back(poison, 0.01)
        else:
            await asyncio.sleep(IDLE_S + 0.05)  # as if its worker had died of it
    (poison,) = await worker.claim([workers.q], 1, 5.0)
    assert await worker.done(poison)
    assert await worker.stats(workers.q) == Stats()


async def test_what_nobody_can_read_is_put_aside_and_counts_no_more(workers):
    worker = workers()
    await worker.put(workers.q, [item(f"a{n}") for n in range(MOST_DEAD + 1)])
    for claimed in await worker.claim([workers.q], MOST_DEAD + 1, 0):
        assert await worker.bury(claimed)
        assert not await worker.bury(claimed)
    assert await worker.stats(workers.q) == Stats(dead=MOST_DEAD)
    await worker.put(workers.q, [item("a0", body=b"readable")])
    assert [each.item.body for each in await drain(worker, workers.q)] == [b"readable"]


async def test_what_was_put_anew_is_not_put_aside_with_what_could_not_be_read(workers):
    worker = workers()
    await worker.put(workers.q, [item("a")])
    (claimed,) = await worker.claim([workers.q], 1, 0)
    await worker.put(workers.q, [item("a", body=b"readable")])
    assert await worker.bury(claimed)
    assert [each.item.body for each in await drain(worker, workers.q)] == [b"readable"]
    assert await worker.stats(workers.q) == Stats()


async def test_what_was_put_back_waits_for_its_delay(workers):
    worker = workers(idle_s=10.0)
    await worker.put(workers.q, [item("a")])
    (claimed,) = await worker.claim([workers.q], 1, 0)
    began = time.monotonic()
    assert await worker.put_back(claimed, 0.3)
    assert not await worker.done(claimed)
    (again,) = await worker.claim([workers.q], 1, 5.0)
    assert time.monotonic() - began >= 0.29
    assert again.deliveries == 2


async def test_a_delivery_that_is_said_not_to_count_does_not(workers):
    worker = workers()
    await worker.put(workers.q, [item("a")])
    for deliveries, counts in ((1, False), (1, True), (2, False), (2, True), (3, True)):
        (claimed,) = await worker.claim([workers.q], 1, 1.0)
        assert claimed.deliveries == deliveries
        assert await worker.put_back(claimed, 0, counts=counts)


async def test_what_waits_can_be_taken_out_and_what_is_claimed_cannot(workers):
    worker = workers()
    later = int((time.time() + 60) * 1000)
    await worker.put(workers.q, [item("claimed", priority=9), item("waiting"), item("later", due_ms=later)])
    (claimed,) = await worker.claim([workers.q], 1, 0)
    await worker.put(workers.q, [item("claimed")])
    assert [await worker.remove(workers.q, id) for id in ("claimed", "waiting", "later", "later")] == [
        False,
        True,
        True,
        False,
    ]
    assert await worker.done(claimed)
    assert await drain(worker, workers.q) == []
    assert await worker.stats(workers.q) == Stats()


async def test_a_tenant_that_has_too_many_is_refused_and_the_others_are_not(workers):
    worker = workers()
    for at in range(0, MAX, 500):
        await worker.put(workers.q, [item(f"a{n}") for n in range(at, at + 500)])
    for items in ([item("more")], [item("b", "other"), item("more")]):
        with pytest.raises(QueueFull) as refused:
            await worker.put(workers.q, items)
        assert refused.value.retry_after
    await worker.put(workers.q, [item("a0"), item("c", "other")])
    assert (await worker.stats(workers.q)).waiting == MAX + 1
    (claimed,) = [each for each in await worker.claim([workers.q], 2, 0) if each.item.tenant == "acme"]
    assert await worker.done(claimed)
    await worker.put(workers.q, [item("more")])


async def test_what_must_be_put_is_put_into_a_full_queue(workers):
    worker = workers()
    for at in range(0, MAX, 500):
        await worker.put(workers.q, [item(f"a{n}") for n in range(at, at + 500)])
    await worker.put(workers.q, [item("accepted")], must=True)
    assert (await worker.stats(workers.q)).waiting == MAX + 1
    with pytest.raises(QueueFull):
        await worker.put(workers.q, [item("more")])


@pytest.mark.parametrize("how", ["done", "bury", "remove", "put back"])
async def test_what_must_be_put_leaves_no_less_room_for_the_rest_and_leaves_no_more_when_it_goes(workers, how):
    worker = workers()
    for at in range(0, MAX - 1, 500):
        await worker.put(workers.q, [item(f"a{n}", priority=0) for n in range(at, min(at + 500, MAX - 1))])
    later = 60_000 if how == "remove" else 0
    await worker.put(workers.q, [item(f"must{n}", after_ms=later) for n in range(3)], must=True)
    if how == "remove":
        assert [await worker.remove(workers.q, f"must{n}") for n in range(3)] == [True] * 3
    for claimed in await worker.claim([workers.q], 3, 0) if how != "remove" else ():
        await worker.put(workers.q, [claimed.item])  # it is there already, and counts no more than before
        put_back = how == "put back"
        assert await (worker.put_back(claimed, 60.0) if put_back else getattr(worker, how)(claimed))
    await worker.put(workers.q, [item("last")])
    with pytest.raises(QueueFull):
        await worker.put(workers.q, [item("more")])


async def test_the_figures_are_what_is_there(workers):
    worker = workers()
    await worker.put(workers.q, [item(f"a{n}") for n in range(3)])
    await worker.put(workers.q, [item("later", due_ms=int((time.time() + 60) * 1000))])
    await worker.put(workers.q, [item("soon", due_ms=int((time.time() + 0.1) * 1000))])
    await worker.claim([workers.q], 1, 0)
    await asyncio.sleep(0.2)
    stats = await worker.stats(workers.q)
    assert (stats.waiting, stats.delayed, stats.claimed) == (3, 1, 1)
    assert 0.15 < stats.oldest_s < 2.0


async def test_many_workers_claim_each_item_once(workers):
    crew = [workers(idle_s=30.0) for _ in range(4)]
    await crew[0].put(workers.q, [item(f"a{n}", f"t{n % 7}", priority=n % 10) for n in range(400)])
    found = await asyncio.gather(*(drain(worker, workers.q, each=3) for worker in crew))
    assert sorted(id for each in found for id in ids(each)) == sorted(f"a{n}" for n in range(400))


async def test_a_claim_that_is_cancelled_has_claimed_nothing(workers):
    worker, other = workers(idle_s=30.0), workers()
    await worker.claim([workers.q], 1, 0)
    for rounds in range(20):
        claim = asyncio.create_task(worker.claim([workers.q], 1, 5.0))
        for _ in range(rounds % 4):
            await asyncio.sleep(0)
        await other.put(workers.q, [item("a")]) if rounds % 2 else None
        claim.cancel()
        (found,) = await asyncio.gather(claim, return_exceptions=True)
        if isinstance(found, list):  # it was through before it could be cancelled
            assert [await worker.done(each) for each in found] == [True]
        await other.put(workers.q, [item("a")])
        (claimed,) = await other.claim([workers.q], 1, 1.0)
        assert await other.done(claimed)
