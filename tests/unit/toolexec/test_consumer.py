import asyncio

import pytest
import pytest_asyncio

from services.kit.errors import StoreUnavailable
from services.kit.queue import Claimed, Item, Unreadable
from services.kit.queue_inmemory import InMemoryQueue, InMemoryQueues
from services.kit.telemetry import open_telemetry
from services.toolexec.core import consumer as module
from services.toolexec.core.consumer import Consumer
from tests.support.waiting import until

IDLE_S = 0.2


class World:
    """A queue, and a consumer whose work the test decides."""

    def __init__(self) -> None:
        self.shared = InMemoryQueues()
        self.queue = InMemoryQueue(self.shared, IDLE_S)
        self.telemetry = open_telemetry("test", "", 0.0)
        self.seen: list[str] = []
        self.cut: list[str] = []
        self.results: dict[str, list] = {}
        self.hold = asyncio.Event()
        self.hold.set()

    def consumer(self, at_once: int = 4) -> Consumer:
        return Consumer(self.queue, "q", self._work, at_once=at_once, idle_s=IDLE_S, telemetry=self.telemetry)

    def redelivered(self) -> float:
        return self.telemetry.metrics.get_sample_value("myriad_queue_redelivered_total", {"queue": "q"}) or 0

    async def put(self, *ids: str) -> None:
        await self.queue.put("q", [Item(each, "acme", b"") for each in ids])

    async def _work(self, claimed: Claimed):
        self.seen.append(claimed.item.id)
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.cut.append(claimed.item.id)
            raise
        left = self.results.get(claimed.item.id, [])
        result = left.pop(0) if left else None
        if isinstance(result, Exception):
            raise result
        return result


@pytest_asyncio.fixture
async def world(monkeypatch):
    monkeypatch.setattr(module, "_AGAIN_S", (0.01, 0.05))
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    made = World()
    yield made
    await made.queue.close()


async def empty(world: World) -> None:
    await until(lambda: not world.shared.entries)


async def test_what_is_done_is_gone(world):
    await world.put("a", "b")
    consumer = world.consumer()
    consumer.start()
    await empty(world)
    await consumer.stop()
    assert sorted(world.seen) == ["a", "b"]


async def test_no_more_are_worked_on_than_may_be(world):
    world.hold.clear()
    await world.put(*"abcdef")
    consumer = world.consumer(at_once=2)
    consumer.start()
    await until(lambda: len(world.seen) == 2)
    await asyncio.sleep(0.05)
    assert len(world.seen) == 2
    world.hold.set()
    await empty(world)
    await consumer.stop()
    assert sorted(world.seen) == list("abcdef")


async def test_what_is_to_come_again_comes_after_its_delay(world):
    world.results["a"] = [0.1]
    await world.put("a")
    consumer = world.consumer()
    consumer.start()
    await until(lambda: world.seen)
    began = asyncio.get_running_loop().time()
    await empty(world)
    await consumer.stop()
    assert world.seen == ["a", "a"]
    assert asyncio.get_running_loop().time() - began > 0.08


@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("broken")])
async def test_what_fails_comes_again_and_harms_no_other(world, error):
    world.results["a"] = [error, error]
    await world.put("a", "b")
    consumer = world.consumer(at_once=1)
    consumer.start()
    await empty(world)
    await consumer.stop()
    assert (world.seen.count("a"), world.seen.count("b")) == (3, 1)
    assert world.redelivered() == 2


async def test_what_always_breaks_is_put_aside_for_people(world, monkeypatch):
    monkeypatch.setattr(module, "_MOST_DELIVERIES", 3)
    world.results["a"] = [RuntimeError("broken")] * 10
    await world.put("a")
    consumer = world.consumer()
    consumer.start()
    await empty(world)
    await consumer.stop()
    assert world.seen == ["a"] * 3
    assert [item.id for item in world.shared.dead["q"]] == ["a"]


async def test_what_cannot_be_read_is_kept_for_people_and_not_tried_again(world):
    world.results["a"] = [Unreadable("none")]
    await world.put("a", "b")
    consumer = world.consumer()
    consumer.start()
    await empty(world)
    await consumer.stop()
    assert sorted(world.seen) == ["a", "b"]
    assert [item.id for item in world.shared.dead["q"]] == ["a"]


async def test_who_stops_gives_back_what_is_under_way(world):
    world.hold.clear()
    await world.put("a")
    consumer = world.consumer()
    consumer.start()
    await until(lambda: world.seen)
    await consumer.stop()
    await consumer.stop()
    assert world.cut == ["a"]
    (claimed,) = await world.queue.claim(["q"], 1, 0)
    assert claimed.item.id == "a"


async def test_who_drains_takes_nothing_new_and_ends_what_is_under_way(world):
    world.hold.clear()
    await world.put("a")
    consumer = world.consumer()
    consumer.start()
    await until(lambda: world.seen)
    consumer.drain()
    await asyncio.sleep(0)
    await world.put("b")
    world.hold.set()
    await until(lambda: ("q", "a") not in world.shared.entries)
    await asyncio.sleep(0.02)
    assert world.seen == ["a"]
    await consumer.stop()


async def test_what_takes_longer_than_the_idle_time_is_held(world):
    world.hold.clear()
    await world.put("a")
    consumer = world.consumer()
    consumer.start()
    await until(lambda: world.seen)
    await asyncio.sleep(2 * IDLE_S)
    assert await world.queue.claim(["q"], 1, 0) == []
    await consumer.stop()


async def test_what_another_has_meanwhile_is_cut(world):
    world.hold.clear()
    await world.put("a")
    consumer = world.consumer(at_once=1)
    extend = world.queue.extend

    async def late(claimed):
        await asyncio.sleep(2 * IDLE_S)
        return await extend(claimed)

    world.queue.extend = late  # as in a process that stood still
    consumer.start()
    await until(lambda: world.seen)
    assert await InMemoryQueue(world.shared, IDLE_S).claim(["q"], 1, 2 * IDLE_S)
    await until(lambda: world.cut)
    await consumer.stop()


async def test_a_queue_that_is_away_is_read_again(world):
    claim = world.queue.claim
    failures = iter([StoreUnavailable("away"), RuntimeError("odd")])

    async def flaky(*arguments):
        error = next(failures, None)
        if error is not None:
            raise error
        return await claim(*arguments)

    world.queue.claim = flaky
    await world.put("a")
    consumer = world.consumer()
    consumer.start()
    await empty(world)
    await consumer.stop()
