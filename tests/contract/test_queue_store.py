"""What queues in Redis do when their store goes away, a record is damaged, or a worker is gone."""

import asyncio
import time
import uuid

import pytest
from redis.exceptions import NoPermissionError

from services.kit.errors import QueueFull, StoreUnavailable
from services.kit.keys import QueueKeys
from services.kit.queue import Item
from services.kit.queue_redis import RedisQueue
from services.kit.redis import Redis
from tests.support.proxy import running_proxy


def item(id, due_ms=0):
    return Item(id, "acme", b"look", due_ms=due_ms)


def ids(claimed):
    return [each.item.id for each in claimed]


async def test_a_worker_whose_store_goes_away_says_so_and_waits_again_when_it_is_back(valkey_url):
    async with running_proxy(valkey_url) as (proxy, url):
        redis = Redis(url)
        queue, q = RedisQueue(redis, "worker", 60.0), uuid.uuid4().hex
        try:
            waiting = asyncio.create_task(queue.claim([q], 1, 5.0))
            await asyncio.sleep(0.1)
            proxy.reset()
            with pytest.raises(StoreUnavailable):
                await waiting
            await redis.check()
            assert await queue.claim([q], 1, 0.01) == []
            proxy.reset()  # while nobody waits
            await asyncio.sleep(0.05)
            waiting = asyncio.create_task(queue.claim([q], 1, 5.0))
            await asyncio.sleep(0.1)
            await queue.put(q, [item("a")])
            assert ids(await waiting) == ["a"]
        finally:
            await queue.close()
            await redis.close()


class Refusing:
    """A store that refuses all in the end."""

    def __init__(self, error):
        self._error = error

    async def call(self, *command):
        await asyncio.sleep(0.02)
        raise self._error


@pytest.mark.parametrize("error", [StoreUnavailable("away"), NoPermissionError("not for you")], ids=["away", "denied"])
async def test_a_worker_that_is_told_to_stop_while_it_claims_does_whatever_its_store_says_then(error):
    claim = asyncio.create_task(RedisQueue(Refusing(error), "worker", 60.0).claim(["q"], 1, 5.0))
    await asyncio.sleep(0.01)
    claim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claim


@pytest.mark.parametrize("state", ["waiting", "delayed", "claimed"])
async def test_a_record_that_is_damaged_is_put_aside_holds_up_nobody_and_counts_no_more(one, state):
    q, idle_s = uuid.uuid4().hex, 0.02
    worker, keys = RedisQueue(one, "worker", idle_s, max_of_a_tenant=2), QueueKeys(q)
    due_ms = int((time.time() + 0.05) * 1000) if state == "delayed" else 0
    await worker.put(q, [item("a", due_ms=due_ms)])
    if state == "claimed":
        await worker.claim([q], 1, 0)
    await one.execute("HSET", keys.all[0], "a", b"\xc1 broken")
    await worker.put(q, [item("b")])
    with pytest.raises(QueueFull):  # the control: it is still counted
        await worker.put(q, [item("c")])
    await asyncio.sleep(0.06)
    (good,) = await worker.claim([q], 2, 0)
    assert good.item.id == "b"
    await worker.put(q, [item("c")])
    with pytest.raises(QueueFull):
        await worker.put(q, [item("d")])
    (kept,) = await one.execute("LRANGE", keys.dead, 0, -1)
    assert b"\xc1 broken" in kept
    assert 0 < await one.execute("PTTL", keys.dead) <= 14 * 86_400_000
    await one.execute("UNLINK", *keys.all)


async def test_what_somebody_else_wrote_into_a_queue_holds_up_nobody(one):
    q, idle_s = uuid.uuid4().hex, 0.02
    worker, keys = RedisQueue(one, "worker", idle_s), QueueKeys(q)
    items, _, _, delayed, turns, *_ = keys.all
    await worker.claim([q], 1, 0)
    await one.execute("HSET", items, "x", "no record", "9", "nor this")
    await one.execute("ZADD", delayed, 1, "x", 1, "9:9", 1, ":", 1, "1:")
    await one.execute("ZADD", turns, 0, "acme")
    await one.execute("XADD", keys.claimed, "*", "i", "x")
    await worker.put(q, [item("b")])
    await asyncio.sleep(2 * idle_s)
    assert ids(await worker.claim([q], 2, 0)) == ["b"]
    await one.execute("UNLINK", *keys.all)


async def test_a_damaged_record_that_is_put_again_is_counted_once(one):
    q = uuid.uuid4().hex
    worker, keys = RedisQueue(one, "worker", 1.0, max_of_a_tenant=2), QueueKeys(q)
    await worker.put(q, [item("a")])
    await one.execute("HSET", keys.all[0], "a", b"\xc1 broken")
    await worker.put(q, [item("a"), item("b")])
    with pytest.raises(QueueFull):
        await worker.put(q, [item("c")])
    for claimed in await worker.claim([q], 9, 0):
        await worker.done(claimed)
    await worker.put(q, [item("c"), item("d")])
    await one.execute("UNLINK", *keys.all)


async def test_workers_that_are_gone_are_forgotten(one):
    q, idle_s = uuid.uuid4().hex, 0.02
    gone, lives = RedisQueue(one, "gone", idle_s), RedisQueue(one, "lives", idle_s)
    for worker in (gone, lives):
        await worker.put(q, [item("a")])
        (claimed,) = await worker.claim([q], 1, 0)
        await worker.done(claimed)
    await asyncio.sleep(21 * idle_s)
    await lives.claim([q], 1, 0)
    names = [known[1] for known in await one.execute("XINFO", "CONSUMERS", QueueKeys(q).claimed, "workers")]
    assert names == [b"lives"]
