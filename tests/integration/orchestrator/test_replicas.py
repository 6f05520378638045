"""Two replicas on one real store, behind a real memory: what the one works on, the other shows and stops."""

import asyncio
import time
import uuid
from contextlib import AsyncExitStack, contextmanager, suppress

import pytest

from myriad.orchestrator.v1 import run_event_pb2
from services.kit.call import Principal
from services.kit.errors import RunNotFound
from services.kit.redis import Redis
from services.orchestrator.adapters.memory import MemoryTurns
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_notices import RedisNotices
from services.orchestrator.adapters.redis_owners import RedisOwners
from services.orchestrator.codec import EventCodec
from services.orchestrator.config import Config
from services.orchestrator.domain.run import Request
from tests.support.load import percentile
from tests.support.memory import running_memory
from tests.support.orchestrator import Bench, act_as, kinds
from tests.support.valkey import running_valkey

STOPPED_S = 0.5
PAUSE_S = 0.03
CONFIG = Config(lease_s=8.0, owner_s=30.0, coalesce_s=0.01)
"""A run that nobody tells of a stop asks for it every two seconds."""

SILENT = ("I am thinking ", 30.0)
PIECES = tuple(piece for number in range(30) for piece in (f"word{number} ", 0.02))


class Deaf:
    """Notices that hear nothing: the control."""

    def start(self, stopped):
        pass

    async def close(self):
        pass

    @contextmanager
    def changes(self, principal, run_id, changed):
        yield


class House:
    """A store, memory, and replicas of the orchestrator's core."""

    def __init__(self, url, memory, closing):
        self.url, self.memory, self.closing = url, memory, closing
        self.owner = Principal(uuid.uuid4().hex, "alice")
        self.bench = Bench()
        self.model = self.bench.model
        self.bench.agents.put(self.owner.tenant, self.bench.agent)

    async def session(self):
        return await self.memory.session(self.owner)

    def replica(self, *, deaf=False):
        """Another process."""
        redis = Redis(self.url)
        notices = Deaf() if deaf else RedisNotices(redis)
        runs = self.bench.another(
            CONFIG,
            memory=MemoryTurns(self.memory.client),
            run_log=RedisRunLog(redis, 60.0, CONFIG.lease_s),
            owners=RedisOwners(redis, CONFIG.owner_s),
            notices=notices,
        )
        runs.start()
        for closer in (redis.close, notices.close, runs.close):
            self.closing.push_async_callback(closer)
        return runs

    async def begin(self, runs):
        act_as(self.owner)
        return await runs.begin(self.owner, Request(await self.session(), "hello"), lambda run_id: None)

    async def entries(self, runs, run_id, after=0):
        """The entries of a run, byte for byte, and when each came."""
        came = []
        async for entry in runs.watch(self.owner, run_id, after):
            if entry is not None:
                came.append((time.monotonic(), entry))
        return came

    async def speaks(self, runs, run_id):
        """Returns once the model has spoken, and the store has it."""
        async for entry in runs.watch(self.owner, run_id, 0):
            if entry is not None and EventCodec().is_delta(entry):
                return


@pytest.fixture(scope="module")
async def store(tmp_path_factory):
    async with running_valkey(tmp_path_factory.mktemp("valkey")) as url, running_memory(url) as memory:
        yield url, memory


@pytest.fixture
async def house(store):
    async with AsyncExitStack() as closing:
        made = House(*store, closing)
        await made.memory.put_agent(made.owner)
        yield made


def bytes_of(came):
    return [entry for _, entry in came]


async def test_every_watcher_of_every_replica_sees_the_same_bytes_from_every_cursor(house):
    house.model.scripts = (PIECES,)
    owner, other, third = house.replica(), house.replica(), house.replica()
    run_id = await house.begin(owner)
    early = [asyncio.create_task(house.entries(runs, run_id)) for runs in (owner, owner, other, other, third)]
    await asyncio.sleep(0.2)
    late = [asyncio.create_task(house.entries(runs, run_id)) for runs in (owner, other)]
    whole = bytes_of(await early[0])
    assert len(whole) > 20
    from_cursors = [house.entries(runs, run_id, after) for runs in (owner, other) for after in range(len(whole) + 1)]
    for seen in await asyncio.gather(*early, *late):
        assert bytes_of(seen) == whole
    for index, seen in enumerate(await asyncio.gather(*from_cursors)):
        assert bytes_of(seen) == whole[index % (len(whole) + 1) :]


async def test_who_reconnects_again_and_again_to_any_replica_misses_nothing_and_sees_nothing_twice(house):
    house.model.scripts = (PIECES,)
    replicas = [house.replica() for _ in range(2)]
    run_id = await house.begin(replicas[0])
    watching = asyncio.create_task(house.entries(replicas[0], run_id))
    seen = []
    while not seen or not EventCodec().is_last(seen[-1]):
        stream = replicas[len(seen) % 2].watch(house.owner, run_id, len(seen))
        seen.append(await anext(stream))
        await stream.aclose()
    assert seen == bytes_of(await watching)


@pytest.mark.alone
@pytest.mark.parametrize("deaf", [False, True])
async def test_a_watcher_elsewhere_sees_what_comes_as_it_comes(house, deaf):
    house.model.scripts = (tuple(piece for number in range(12) for piece in (f"{number} ", 0.1)),)
    owner, other = house.replica(), house.replica(deaf=deaf)
    run_id = await house.begin(owner)
    here, there = await asyncio.gather(house.entries(owner, run_id), house.entries(other, run_id))
    late = [elsewhere - at_home for (at_home, _), (elsewhere, _) in zip(here, there, strict=True)]
    if deaf:
        assert percentile(late, 0.5) > 0.2  # the control: it looks once a second
    else:
        assert percentile(late, 0.9) < 0.1, late


@pytest.mark.alone
@pytest.mark.parametrize("runs", [30, pytest.param(100, marks=pytest.mark.chaos)])
async def test_a_silent_run_stops_at_once_when_another_replica_cancels_it(house, runs):
    house.model.scripts = (SILENT,)
    took = await cancelled_elsewhere(house, house.replica(), runs)
    assert percentile(took, 0.99) <= STOPPED_S, took
    assert house.model.stopped == runs


@pytest.mark.alone
async def test_control_who_hears_nothing_of_stops_goes_on_until_it_asks(house):
    house.model.scripts = (SILENT,)
    took = await cancelled_elsewhere(house, house.replica(deaf=True), 5, pause_s=0.3)  # so not all just before it asks
    assert max(took) > STOPPED_S, took


async def cancelled_elsewhere(house, owner, count, pause_s=PAUSE_S):
    """Seconds from the cancel at another replica to the last event there."""
    other = house.replica()
    run_ids = [await house.begin(owner) for _ in range(count)]
    await asyncio.gather(*(house.speaks(other, run_id) for run_id in run_ids))

    async def cancel(index, run_id):
        await asyncio.sleep(index * pause_s)
        began = time.monotonic()
        await other.cancel(house.owner, run_id)
        (*_, (came, last)) = await house.entries(other, run_id)
        assert kinds([run_event_pb2.RunEvent.FromString(last)]) == ["cancelled"]
        return came - began

    return await asyncio.gather(*(cancel(index, run_id) for index, run_id in enumerate(run_ids)))


@pytest.mark.alone
async def test_a_stop_that_is_not_in_the_store_stops_nothing(house, store):
    house.model.scripts = (("word ", 0.3, "end"),)
    owner = house.replica()
    run_id = await house.begin(owner)
    await house.speaks(owner, run_id)
    redis = Redis(store[0])
    session_id, _, number = run_id.rpartition(".")
    key = f"myriad:{{{house.owner.tenant}/{session_id}}}:session"
    assert await redis.execute("PUBLISH", "myriad:!stops", f"{key} {number}") >= 1
    for junk in ("", "x", f"{key} 99", f"{key} x", "myriad:{a/b/c}:session 1", b"\xff\xfe 1"):
        await redis.execute("PUBLISH", "myriad:!stops", junk)
    await redis.close()
    (*_, (_, last)) = await house.entries(owner, run_id)
    assert kinds([run_event_pb2.RunEvent.FromString(last)]) == ["completed"]
    house.model.scripts = (SILENT,)
    assert max(await cancelled_elsewhere(house, owner, 3)) <= STOPPED_S  # it still hears


async def test_a_stranger_neither_watches_nor_cancels(house):
    house.model.scripts = (SILENT,)
    owner, other = house.replica(), house.replica()
    run_id = await house.begin(owner)
    await house.speaks(owner, run_id)
    for stranger in (Principal(house.owner.tenant, "mallory"), Principal("evil", house.owner.user)):
        for runs in (owner, other):
            for attempt in (anext(runs.watch(stranger, run_id, 0)), runs.cancel(stranger, run_id)):
                with pytest.raises(RunNotFound):
                    await attempt
    assert house.model.stopped == 0
    await other.cancel(house.owner, run_id)
    with suppress(TimeoutError):
        await asyncio.wait_for(house.entries(owner, run_id), 10)
    assert house.model.stopped == 1
