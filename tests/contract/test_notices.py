"""Notices: one list of behaviours for the fake, one Redis and a cluster of three primaries, told by the functions."""

import asyncio
import uuid
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from services.kit.call import Principal
from services.kit.redis import Redis
from services.orchestrator.adapters.inmemory import InMemoryTurns
from services.orchestrator.adapters.memory import MemoryTurns
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_notices import RedisNotices
from services.orchestrator.domain.run import Request
from tests.support.memory import RealMemory, running_memory
from tests.support.orchestrator import act_as
from tests.support.proxy import running_proxy
from tests.support.valkey import UserRedis, as_user
from tests.support.waiting import until

WITHIN_S = 10.0
"""How long a test has patience for word that it waits for."""
QUIET_S = 0.1


@dataclass
class Place:
    """A store, a session in it, and processes that listen."""

    turns: Any
    log: Any
    owner: Principal
    session_id: str
    make: Any

    async def begin(self):
        act_as(self.owner)
        return await self.turns.begin_turn(Request(self.session_id, "hello"), b"", 30.0)


class Word:
    """What came to one listener."""

    def __init__(self):
        self.count = 0
        self._came = asyncio.Event()

    def __call__(self, *_what):
        self.count += 1
        self._came.set()

    async def comes(self):
        """Returns once there is word, and forgets it."""
        await asyncio.wait_for(self._came.wait(), WITHIN_S)
        self._came.clear()

    async def is_quiet(self):
        """Whether none comes for a while."""
        await asyncio.sleep(QUIET_S)
        return not self._came.is_set()


@dataclass
class Store:
    """Memory and the run log on one Redis."""

    redis: UserRedis
    memory: RealMemory

    async def session(self, owner):
        await self.memory.put_agent(owner)
        return MemoryTurns(self.memory.client), await self.memory.session(owner)


async def open_store(url, closing):
    memory = await closing.enter_async_context(running_memory(as_user(url, "memory")))
    redis = UserRedis(url, "orchestrator")
    closing.push_async_callback(redis.close)
    return Store(redis, memory)


@pytest.fixture(scope="module")
async def one(valkey_url):
    async with AsyncExitStack() as closing:
        yield await open_store(valkey_url, closing)


@pytest.fixture(scope="module")
async def cluster(cluster_url):
    async with AsyncExitStack() as closing:
        yield await open_store(cluster_url, closing)


@pytest.fixture(params=["memory", "one", "cluster"])
async def place(request, one, cluster):
    owner = Principal(f"{{tenant}}/{uuid.uuid4().hex}", "al {i}/ce")
    async with AsyncExitStack() as closing:
        if request.param == "memory":
            turns = InMemoryTurns()
            turns.add_session(owner, "s1", "aura")
            yield Place(turns, turns, owner, "s1", lambda stopped: listening(turns.notices, stopped, None))
            return
        store = one if request.param == "one" else cluster
        turns, session_id = await store.session(owner)

        def make(stopped):
            return listening(RedisNotices(store.redis), stopped, closing)

        yield Place(turns, RedisRunLog(store.redis, 60.0, 30.0), owner, session_id, make)


async def listening(notices, stopped, closing):
    """A process that has begun to hear."""
    notices.start(stopped)
    if closing is not None:
        closing.push_async_callback(notices.close)
        ready = Word()
        with notices.changes(Principal("nobody", "nobody"), f"{uuid.uuid4().hex}.1", ready):
            await ready.comes()
    return notices


async def test_there_is_word_of_each_entry_and_of_the_end(place):
    turn = await place.begin()
    notices, word = await place.make(Word()), Word()
    with notices.changes(place.owner, turn.run_id, word):
        await word.comes()  # from now on all is heard
        await place.log.append(place.owner, turn, 1, [b"one"])
        await word.comes()
        await place.log.append(place.owner, turn, 2, [b"two", b"three"])
        await word.comes()
        await place.log.append(place.owner, turn, 0, [])  # nothing new
        assert await word.is_quiet()
        await place.turns.abandon_turn(turn, [b"end"], 4)
        await word.comes()
    assert word.count == 4


async def test_each_process_hears_and_each_who_asked(place):
    turn = await place.begin()
    words = [Word() for _ in range(4)]
    with ExitStack() as open_:
        for notices in (await place.make(Word()), await place.make(Word())):
            for word in (words.pop(0), words.pop(0)):
                open_.enter_context(notices.changes(place.owner, turn.run_id, word))
                words.append(word)
        for word in words:
            await word.comes()  # from now on all is heard
        assert all([await word.is_quiet() for word in words])
        before = [word.count for word in words]
        await place.log.append(place.owner, turn, 1, [b"one"])
        for word in words:
            await word.comes()
        assert [word.count for word in words] == [count + 1 for count in before]


async def test_who_left_hears_no_more_and_the_other_still_does(place):
    turn = await place.begin()
    notices, gone, there = await place.make(Word()), Word(), Word()
    with notices.changes(place.owner, turn.run_id, there):
        with notices.changes(place.owner, turn.run_id, gone):
            await there.comes()
        await asyncio.sleep(QUIET_S)
        before = gone.count
        there._came.clear()
        await place.log.append(place.owner, turn, 1, [b"one"])
        await there.comes()
    assert gone.count == before


async def test_there_is_no_word_of_another_run_nor_of_anothers(place):
    turn = await place.begin()
    notices, word = await place.make(Word()), Word()
    other = Principal("other", place.owner.user)
    with ExitStack() as open_:
        for principal, run_id in ((place.owner, f"{place.session_id}.9"), (other, turn.run_id)):
            open_.enter_context(notices.changes(principal, run_id, word))
        await word.comes()
        assert await word.is_quiet()
        await place.log.append(place.owner, turn, 1, [b"one"])
        assert await word.is_quiet()


async def test_every_process_hears_which_run_is_to_stop(place):
    turn = await place.begin()
    told = [[], []]
    for heard in told:
        await place.make(lambda tenant, run_id, heard=heard: heard.append((tenant, run_id)))
    await place.log.request_cancel(place.owner, turn.run_id)
    await until(lambda: all(told), WITHIN_S)
    assert told == [[(place.owner.tenant, turn.run_id)]] * 2


async def test_a_run_that_has_ended_is_not_told_to_stop(place):
    turn = await place.begin()
    told = []
    await place.make(lambda tenant, run_id: told.append(run_id))
    await place.turns.abandon_turn(turn, [b"end"], 1)
    await place.log.request_cancel(place.owner, turn.run_id)
    await asyncio.sleep(QUIET_S)
    assert not told


async def test_a_process_holds_one_connection_however_much_it_listens_to(one):
    before = await listeners(one.redis.root)
    notices = await listening(RedisNotices(one.redis), Word(), AsyncExitStack())
    with ExitStack() as open_:
        for number in range(300):
            word = Word()
            open_.enter_context(notices.changes(Principal("many", "alice"), f"s{number}.1", word))
        await word.comes()
        assert await listeners(one.redis.root) == before + 1
        assert await channels(one.redis.root) == 300

    async def no_channels():
        return not await channels(one.redis.root)

    async def as_before():
        return await listeners(one.redis.root) == before

    await until(no_channels, WITHIN_S)
    await notices.close()
    await until(as_before, WITHIN_S)


async def listeners(redis):
    return (await redis.execute("CLIENT", "LIST", "TYPE", "pubsub")).count(b"\n")


async def channels(redis):
    return len(await redis.execute("PUBSUB", "CHANNELS", "myriad:{many/*"))


@pytest.mark.parametrize("cut", ["reset", "silent"])
async def test_a_connection_that_is_lost_is_opened_anew_and_says_so(one, valkey_url, cut):
    owner = Principal(uuid.uuid4().hex, "alice")
    turns, session_id = await one.session(owner)
    turn = await turns.begin_turn(Request(session_id, "hello"), b"", 30.0)
    log, word = RedisRunLog(one.redis, 60.0, 30.0), Word()
    async with AsyncExitStack() as closing:
        proxy, url = await closing.enter_async_context(running_proxy(valkey_url))
        through = Redis(as_user(url, "orchestrator"))
        closing.push_async_callback(through.close)
        notices = await listening(RedisNotices(through), Word(), closing)
        with notices.changes(owner, turn.run_id, word):
            await word.comes()
            proxy.refusing = True
            proxy.reset() if cut == "reset" else proxy.stall()
            await log.append(owner, turn, 1, [b"one"])
            assert await word.is_quiet()  # lost
            connections = proxy.connections
            await until(lambda: proxy.connections > connections, WITHIN_S)
            proxy.resume()
            await word.comes()  # so who listens looks
            await log.append(owner, turn, 2, [b"two"])
            await word.comes()
