"""Owners: one list of behaviours for the fake, one Redis and a cluster of three primaries."""

import asyncio
import time
import uuid

import pytest

from services.kit.call import Principal
from services.kit.keys import OwnerKeys
from services.orchestrator.adapters.inmemory_owners import InMemoryOwners
from services.orchestrator.adapters.redis_owners import RedisOwners

USER = "orchestrator"
OWNER_S = 0.3
ALICE, BOB = Principal("acme", "alice"), Principal("{acme}", "bob\u0142")


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


async def by_session(owners):
    return sorted(await owners.mine(), key=lambda each: each[1])


async def test_a_process_that_lives_keeps_what_is_its_own(process):
    one, other = process.make(), process.make()
    assert await one.beat() == await other.beat() == []
    await one.hold(ALICE, "s1")
    await other.take(one._me)
    assert (await one.mine(), await other.mine()) == ([(ALICE, "s1")], [])


async def test_the_sessions_of_a_process_that_is_gone_go_to_another_once(process):
    gone, taker, late = process.make(), process.make(), process.make()
    await gone.beat()
    await gone.hold(ALICE, "s1")
    await gone.hold(BOB, "s2")
    await gone.hold(BOB, "s2")
    await process.die(gone)
    assert await taker.beat() == [gone._me]
    taken = await taker.take(gone._me)
    assert sorted(taken, key=lambda each: each[1]) == [(ALICE, "s1"), (BOB, "s2")]
    assert await late.take(gone._me) == []
    assert await by_session(taker) == [(ALICE, "s1"), (BOB, "s2")]
    assert await late.mine() == []


async def test_a_session_that_both_worked_in_is_among_those_that_are_taken(process):
    gone, taker = process.make(), process.make()
    await gone.beat()
    await gone.hold(ALICE, "s1")
    await taker.hold(ALICE, "s1")
    await process.die(gone)
    await taker.beat()
    assert await taker.take(gone._me) == [(ALICE, "s1")]
    assert await taker.mine() == [(ALICE, "s1")]


async def test_more_sessions_than_change_hands_in_one_step_all_go_over(process):
    gone, taker = process.make(), process.make()
    await gone.beat()
    for first in range(0, 1100, 100):
        await asyncio.gather(*(gone.hold(ALICE, f"s{number}") for number in range(first, first + 100)))
    await process.die(gone)
    await taker.beat()
    await taker.take(gone._me)
    assert len(await taker.mine()) == 1100


async def test_what_was_taken_over_can_be_taken_over_again(process):
    gone, taker, third = process.make(), process.make(), process.make()
    await gone.beat()
    await gone.hold(ALICE, "s1")
    await process.die(gone)
    await taker.beat()
    await taker.take(gone._me)
    await process.die(taker)
    await third.beat()
    await third.take(taker._me)
    assert await third.mine() == [(ALICE, "s1")]


async def test_a_process_that_leaves_is_gone_at_once(process):
    leaving, taker = process.make(), process.make()
    await leaving.beat()
    await leaving.hold(ALICE, "s1")
    await leaving.leave()
    assert await taker.beat() == [leaving._me]
    await taker.take(leaving._me)
    assert await taker.mine() == [(ALICE, "s1")]


async def test_what_was_given_back_is_not_taken_over(process):
    gone, taker = process.make(), process.make()
    await gone.beat()
    await gone.hold(ALICE, "s1")
    await gone.release([(ALICE, "s1")])
    await process.die(gone)
    await taker.beat()
    await taker.take(gone._me)
    assert await taker.mine() == []


async def test_its_time_is_the_stores_from_the_first_beat_on(process):
    owners = process.make()
    assert owners.now() == pytest.approx(time.time(), abs=1)
    await owners.beat()
    since = owners.now()
    assert since == pytest.approx(time.time(), abs=1)  # the servers of these tests have this machine's clock
    await asyncio.sleep(0.05)
    assert owners.now() - since >= 0.05
