"""Watching a tenant's events: one reader for all, no holes, no repeats, whoever is slow."""

import asyncio

import pytest

from services.kit.call import Principal
from services.kit.errors import Overloaded, ServiceUnavailable, StoreUnavailable
from services.orchestrator.adapters.inmemory_events import InMemoryEvents
from services.orchestrator.core.event_feed import MOST_TENANTS, EventFeed
from services.orchestrator.core.events import happened
from services.orchestrator.domain.events import EventType


class Bench:
    def __init__(self, heartbeat_s=5.0, kept=10_000):
        self.store = InMemoryEvents(kept)
        self.feed = EventFeed(self.store, heartbeat_s)
        self.watches = []

    async def tell(self, *numbers, kind=EventType.RUN_STARTED, tenant="acme"):
        principal = Principal(tenant, "ann")
        await self.store.publish([happened(kind, principal, "s1", f"s1.{number}") for number in numbers])

    def watch(self, after="", types=(), tenant="acme"):
        """A watch that has begun once it was first asked for."""
        watch = self.feed.watch(tenant, after, types)
        self.watches.append(watch)
        return watch


@pytest.fixture
async def b():
    made = Bench()
    yield made
    for watch in made.watches:
        await watch.aclose()


async def take(watch, count, silence=False):
    """Numbers of the next runs told. With `silence`, None for each time that it was told of."""
    found = []
    async with asyncio.timeout(30.0):
        while len(found) < count:
            told = await anext(watch)
            if told or silence:
                found.append(told and int(told[1].run_id.rpartition(".")[2]))
    return found


def taking(watch, count, silence=False):
    return asyncio.create_task(take(watch, count, silence))


async def test_one_is_told_at_once_that_one_listens_and_misses_nothing_from_then_on(b):
    await b.tell(1)
    watch = b.watch()
    assert await take(watch, 1, silence=True) == [None]
    await b.tell(2)
    assert await take(watch, 1, silence=True) == [2]


async def test_what_is_kept_is_told_before_one_hears_that_one_listens(b):
    await b.tell(1, 2)
    watch = b.watch("0")
    assert await take(watch, 3, silence=True) == [1, 2, None]
    await b.tell(3)
    assert await take(watch, 1, silence=True) == [3]


async def test_without_a_cursor_one_sees_what_comes(b):
    await b.tell(1, 2)
    watching = taking(b.watch(), 2)
    await asyncio.sleep(0.02)
    await b.tell(3, 4)
    assert await watching == [3, 4]


async def test_from_the_beginning_one_sees_all_that_is_kept_and_what_comes(b):
    await b.tell(*range(1, 1_301))
    watch = b.watch("0")
    assert await take(watch, 1_300) == list(range(1, 1_301))
    watching = taking(watch, 1)
    await b.tell(1_301)
    assert await watching == [1_301]


async def test_one_goes_on_where_one_was(b):
    await b.tell(*range(1, 11))
    watch = b.watch("0")
    cursor = [await anext(watch) for _ in range(4)][-1][0]
    await watch.aclose()
    assert await take(b.watch(cursor), 6) == list(range(5, 11))


@pytest.mark.parametrize("after", ["99999999999999999999-0", "18446744073709551615-18446744073709551615", "7-99"])
async def test_a_cursor_beyond_the_end_waits(b, after):
    await b.tell(1)
    watch = b.watch(after)
    waiting = taking(watch, 1)
    await asyncio.sleep(0.05)
    await b.tell(2)
    await asyncio.sleep(0.02)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_one_sees_only_the_types_asked_for(b):
    await b.tell(1)
    await b.tell(2, kind=EventType.RUN_FAILED)
    await b.tell(3, kind=EventType.RUN_COMPLETED)
    assert await take(b.watch("0", ["run.failed", "run.completed"]), 2) == [2, 3]


async def test_one_sees_only_ones_own_tenant(b):
    mine, theirs = taking(b.watch("0"), 1), taking(b.watch("0", tenant="evil"), 1)
    await asyncio.sleep(0.02)
    await b.tell(1)
    await b.tell(2, tenant="evil")
    assert (await mine, await theirs) == ([1], [2])


async def test_silence_is_told_also_among_events_that_are_not_asked_for():
    b = Bench(heartbeat_s=0.05)
    watching = taking(b.watch("", ["run.failed"]), 3, silence=True)
    for number in range(8):
        await asyncio.sleep(0.02)
        await b.tell(number)
    assert await watching == [None, None, None]
    for watch in b.watches:
        await watch.aclose()


async def test_many_watchers_share_one_reader(b):
    waiting = 0
    read = b.store.read

    async def counted(tenant, after, limit, wait_s=0.0):
        nonlocal waiting
        waiting += bool(wait_s)
        return await read(tenant, after, limit, wait_s)

    b.store.read = counted
    watching = [taking(b.watch(), 1) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert waiting == 1
    await b.tell(1)
    assert await asyncio.gather(*watching) == [[1]] * 50


async def test_the_reader_ends_with_the_last_watcher(b):
    first, second = b.watch("0"), b.watch("0")
    await b.tell(1)
    await take(first, 1)
    await take(second, 1)
    await first.aclose()
    assert len(b.feed._readers) == 1
    await second.aclose()
    await asyncio.sleep(0.02)
    reads = b.store.reads
    await asyncio.sleep(0.05)
    assert (len(b.feed._readers), b.store.reads) == (0, reads)


async def test_a_slow_watcher_misses_nothing_and_holds_nobody_up(b):
    slow, quick = b.watch("0"), b.watch("0")
    await b.tell(1)
    assert await take(slow, 1) == [1]
    expected = list(range(1, 5_002))
    watching = taking(quick, 5_001)
    for first in range(2, 5_002, 500):
        await b.tell(*range(first, first + 500))
        await asyncio.sleep(0.01)
    assert await watching == expected
    assert await take(slow, 5_000) == expected[1:]


async def test_what_is_no_longer_kept_is_passed_over():
    b = Bench(kept=100)
    await b.tell(*range(1, 51))
    watch = b.watch("0")
    assert await take(watch, 1) == [1]
    for first in range(51, 2_051, 100):
        await b.tell(*range(first, first + 100))
        await asyncio.sleep(0.002)
    found = await take(watch, 1)
    while found[-1] != 2_050:
        found += await take(watch, 1)
    assert found == sorted(set(found))
    await watch.aclose()


async def test_a_store_that_goes_away_ends_the_watch_and_a_new_one_goes_on(b):
    watch = b.watch("0")
    await b.tell(1)
    assert await take(watch, 1) == [1]
    b.store.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await take(watch, 1)
    b.store.error = None
    await b.tell(2)
    assert await take(b.watch("1-0"), 1) == [2]


async def test_a_store_that_is_away_at_the_beginning_is_said_to_be(b):
    b.store.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await take(b.watch(), 1)
    assert not b.feed._readers


async def test_only_so_many_tenants_are_watched_at_once(b):
    watching = [taking(b.watch(tenant=f"tenant-{number}"), 1) for number in range(MOST_TENANTS)]
    await asyncio.sleep(0.02)
    with pytest.raises(Overloaded):
        await take(b.watch(tenant="one-more"), 1)
    more = taking(b.watch(tenant="tenant-0"), 1)
    await asyncio.sleep(0.02)
    await b.tell(1, tenant="tenant-0")
    assert await more == [1]
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


async def test_who_stops_sends_watchers_elsewhere(b):
    watching = taking(b.watch(), 1)
    await asyncio.sleep(0.02)
    await b.feed.close()
    with pytest.raises(ServiceUnavailable):
        await watching
    with pytest.raises(ServiceUnavailable):
        await take(b.watch(), 1)
