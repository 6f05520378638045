"""What is in queues is shown to whoever scrapes the process."""

import math

import pytest

from services.kit.errors import StoreUnavailable
from services.kit.queue import Item
from services.kit.queue_inmemory import InMemoryQueue, InMemoryQueues
from services.kit.queue_watch import QueueWatch
from services.kit.telemetry import open_telemetry
from tests.support.waiting import until


class Bench:
    def __init__(self):
        self.queue = InMemoryQueue(InMemoryQueues(), 30.0)
        self.telemetry = open_telemetry("test", "", 0.0)
        self.watch = QueueWatch(self.queue, ["SIMPLE", "GPU"], self.telemetry.queues, every_s=0.01)

    def shown(self, name, **labels):
        return self.telemetry.metrics.get_sample_value(f"myriad_queue_{name}", labels)

    def items(self, queue):
        return [self.shown("items", queue=queue, state=state) for state in ("waiting", "delayed", "claimed", "dead")]


@pytest.fixture
async def b():
    made = Bench()
    yield made
    await made.watch.stop()


async def test_each_queue_is_shown_with_what_it_has_and_since_when(b):
    later, long_due = 4_000_000_000_000, 1_000
    await b.queue.put("GPU", [Item("a", "acme", b""), Item("b", "acme", b""), Item("later", "acme", b"", due_ms=later)])
    for bury in (True, False):
        (claimed,) = await b.queue.claim(["GPU"], 1, 0)
        await (b.queue.bury(claimed) if bury else b.queue.extend(claimed))
    await b.queue.put("GPU", [Item("old", "acme", b"", due_ms=long_due)])
    b.queue._shared.entries["GPU", "old"].since = 0.0
    b.watch.start()
    await until(lambda: b.items("GPU") == [1, 1, 1, 1])
    assert b.shown("oldest_seconds", queue="GPU") > 1_000_000_000
    assert (b.items("SIMPLE"), b.shown("oldest_seconds", queue="SIMPLE")) == ([0, 0, 0, 0], 0)


async def test_while_the_store_is_away_no_number_is_shown(b):
    stats, away = b.queue.stats, [True]

    async def flaky(queue):
        if away:
            raise StoreUnavailable("away")
        return await stats(queue)

    b.queue.stats = flaky
    b.watch.start()
    await until(lambda: b.items("GPU")[0] is not None)
    assert all(math.isnan(value) for value in (*b.items("GPU"), b.shown("oldest_seconds", queue="GPU")))
    away.clear()
    await until(lambda: b.items("GPU") == [0, 0, 0, 0])
