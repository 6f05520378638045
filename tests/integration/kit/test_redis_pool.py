"""More calls to Redis at once than there are connections wait for one; none fails for want of it."""

import asyncio

import pytest
import redis.asyncio
from redis.exceptions import MaxConnectionsError

from services.kit.redis import Redis
from tests.support.valkey import running_valkey

CALLS = 300


@pytest.fixture(scope="module")
async def url(tmp_path_factory):
    async with running_valkey(tmp_path_factory.mktemp("valkey")) as address:
        yield address


async def test_three_hundred_calls_at_once_all_succeed(url):
    store = Redis(url)
    replies = await asyncio.gather(*(store.execute("INCR", "pool:counter") for _ in range(CALLS)))
    assert sorted(replies) == list(range(1, CALLS + 1))
    await store.close()


async def test_control_the_default_pool_fails_most_of_them(url):
    store = redis.asyncio.from_url(url)
    replies = await asyncio.gather(*(store.get("pool:counter") for _ in range(CALLS)), return_exceptions=True)
    await store.aclose()
    assert sum(isinstance(reply, MaxConnectionsError) for reply in replies) > CALLS / 2
