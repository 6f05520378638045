"""What every Callbacks does: it remembers what became of a run's callback."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.kit.call import Principal
from services.kit.errors import StoreUnavailable
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.toolexec.adapters.inmemory_background import InMemoryCallbacks
from services.toolexec.adapters.redis_runs import RedisCallbacks
from services.toolexec.domain import CallbackState
from services.toolexec.ports import Callbacks
from tests.support.ports import free_port
from tests.support.valkey import UserRedis

PENDING, DELIVERED, FAILED = CallbackState.PENDING, CallbackState.DELIVERED, CallbackState.FAILED


@pytest_asyncio.fixture(scope="module", params=["inmemory", "valkey", "cluster"])
async def outcomes(request, valkey_url, cluster_url) -> AsyncIterator[Callbacks]:
    if request.param == "inmemory":
        yield InMemoryCallbacks()
        return
    redis = UserRedis(valkey_url if request.param == "valkey" else cluster_url, "toolexec")
    yield RedisCallbacks(redis)
    await redis.close()


@pytest_asyncio.fixture
async def redis(valkey_url) -> AsyncIterator[Redis]:
    made = Redis(valkey_url)
    yield made
    await made.close()


@pytest.fixture
def ann() -> Principal:
    return Principal("acme-" + secrets.token_hex(4), "ann")


async def test_attempts_are_counted_until_one_is_taken(outcomes, ann):
    for attempt in (1, 2, 3):
        assert await outcomes.begin(ann, "s1.1") == (PENDING, attempt)
        await outcomes.note(ann, "s1.1", PENDING, "503")
    await outcomes.begin(ann, "s1.1")
    await outcomes.note(ann, "s1.1", DELIVERED, "")
    assert await outcomes.begin(ann, "s1.1") == (DELIVERED, 4)


@pytest.mark.parametrize("last", [DELIVERED, FAILED])
async def test_an_end_is_final(outcomes, ann, last):
    await outcomes.begin(ann, "s1.1")
    await outcomes.note(ann, "s1.1", last, "410")
    for later in CallbackState:
        await outcomes.note(ann, "s1.1", later, "late")
        assert await outcomes.begin(ann, "s1.1") == (last, 1)


async def test_callbacks_of_other_runs_and_tenants_are_apart(outcomes, ann):
    await outcomes.begin(ann, "s1.1")
    await outcomes.note(ann, "s1.1", FAILED, "410")
    for who, run_id in ((ann, "s1.2"), (ann, "s1.11"), (ann, "s2.1"), (Principal(ann.tenant + "x", "ann"), "s1.1")):
        assert await outcomes.begin(who, run_id) == (PENDING, 1)


async def test_of_many_at_once_each_counts(outcomes, ann):
    found = await asyncio.gather(*(outcomes.begin(ann, "s1.1") for _ in range(20)))
    assert sorted(attempts for _, attempts in found) == list(range(1, 21))


async def test_who_reads_it_finds_state_attempts_reason_and_end(redis, ann):
    outcomes, name = RedisCallbacks(redis), SessionKeys(ann, "s1").callback(1)
    await outcomes.begin(ann, "s1.1")
    await outcomes.note(ann, "s1.1", PENDING, "503")
    fields = ("state", "attempts", "reason", "end_ms")
    assert await redis.execute("HMGET", name, *fields) == [b"pending", b"1", b"503", None]
    await outcomes.note(ann, "s1.1", DELIVERED, "")
    *found, end_ms = await redis.execute("HMGET", name, *fields)
    seconds, _ = await redis.execute("TIME")
    assert found == [b"delivered", b"1", b""]
    assert abs(int(end_ms) - int(seconds) * 1000) < 5_000


async def test_it_lives_as_long_as_the_runs_log(redis, ann):
    outcomes, keys = RedisCallbacks(redis), SessionKeys(ann, "s1")
    await redis.execute("XADD", keys.log(1), "1-0", "e", "x")
    await redis.execute("PEXPIRE", keys.log(1), 50_000)
    await outcomes.begin(ann, "s1.1")
    assert abs(await redis.execute("PTTL", keys.callback(1)) - 50_000) < 5_000
    await redis.execute("UNLINK", keys.log(1))
    await outcomes.note(ann, "s1.1", DELIVERED, "")
    assert await redis.execute("PTTL", keys.callback(1)) > 60_000  # without a log it lives for a time of its own


async def test_a_store_that_is_gone_says_so(ann):
    redis = Redis(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable):
        await RedisCallbacks(redis).begin(ann, "s1.1")
    await redis.close()
