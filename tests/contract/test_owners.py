"""Owners: one list of behaviours for the fake, one Redis and a cluster of three primaries."""

import asyncio
import uuid

import pytest

from services.kit.call import Principal
from services.kit.keys import OwnerKeys
from services.kit.redis import Redis
from services.orchestrator.adapters.inmemory import InMemoryOwners
from services.orchestrator.adapters.redis_owners import RedisOwners
from tests.support.valkey import running_cluster, running_valkey

OWNER_S = 0.3
ALICE, BOB = Principal("acme", "alice"), Principal("{acme}", "bob\u0142")


@pytest.fixture(scope="module")
async def one(tmp_path_factory):
    async with running_valkey(tmp_path_factory.mktemp("one")) as url:
        redis = Redis(url)
        yield redis
        await redis.close()


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory):
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as url:
        redis = Redis(url)
        yield redis
        await redis.close()


@pytest.fixture(params=["memory", "one", "cluster"])
async def process(request, one, cluster):
    """Makes processes, and lets one die."""
    if request.param == "memory":
        yield InMemoryProcesses()
        return
    redis = one if request.param == "one" else cluster
    yield RedisProcesses(redis)
    await redis.execute("UNLINK", OwnerKeys.owners)


class InMemoryProcesses:
    def __init__(self):
        self._shared, self._gone = {}, set()

    def make(self):
        return InMemoryOwners(self._shared, self._gone, uuid.uuid4().hex)

    async def die(self, owners):
        self._gone.add(owners._me)


class RedisProcesses:
    def __init__(self, redis):
        self._redis = redis

    def make(self):
        return RedisOwners(self._redis, OWNER_S)

    async def die(self, owners):
        await asyncio.sleep(OWNER_S + 0.05)


async def test_a_process_that_lives_is_not_gone(process):
    one, other = process.make(), process.make()
    assert await one.beat() == await other.beat() == []
    assert await other.take(one._me, 10) == []


async def test_the_sessions_of_a_process_that_is_gone_go_to_another_once(process):
    gone, taker, late = process.make(), process.make(), process.make()
    await gone.beat()
    await gone.hold(ALICE, "s1")
    await gone.hold(BOB, "s2")
    await gone.hold(BOB, "s2")
    await process.die(gone)
    assert await taker.beat() == [gone._me]
    taken = [*await taker.take(gone._me, 1), *await taker.take(gone._me, 10)]
    assert sorted(taken, key=lambda each: each[1]) == [(ALICE, "s1"), (BOB, "s2")]
    assert await late.take(gone._me, 10) == []


async def test_what_was_taken_over_can_be_taken_over_again(process):
    gone, taker, third = process.make(), process.make(), process.make()
    await gone.beat()
    await gone.hold(ALICE, "s1")
    await process.die(gone)
    await taker.beat()
    assert await taker.take(gone._me, 10) == [(ALICE, "s1")]
    await process.die(taker)
    await third.beat()
    assert await third.take(taker._me, 10) == [(ALICE, "s1")]


async def test_a_process_that_leaves_is_gone_at_once(process):
    leaving, taker = process.make(), process.make()
    await leaving.beat()
    await leaving.hold(ALICE, "s1")
    await leaving.leave()
    assert await taker.beat() == [leaving._me]
    assert await taker.take(leaving._me, 10) == [(ALICE, "s1")]


async def test_what_was_given_back_is_not_taken_over(process):
    gone, taker = process.make(), process.make()
    await gone.beat()
    await gone.hold(ALICE, "s1")
    await gone.release([(ALICE, "s1")])
    await process.die(gone)
    await taker.beat()
    assert await taker.take(gone._me, 10) == []
