"""The guards of the store, one by one: each scene is played as it is, and then, as a control, with its guard off.

What processes and their deaths do with these guards, the other files show. Here is what each of them alone prevents.
"""

import asyncio
import uuid
from contextlib import asynccontextmanager, nullcontext

import pytest

from myriad.common.v1 import common_pb2
from services.kit.call import Principal
from services.kit.errors import Aborted, LeaseLost, SessionBusy
from services.kit.queue import Item
from services.kit.queue_redis import RedisQueue
from services.kit.redis import Redis
from services.memory.adapters.redis import RedisSessionStore
from services.memory.codec import read_message
from services.memory.domain import Ending, Lifetimes, Order, Request
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_owners import RedisOwners
from services.orchestrator.domain.run import Turn
from tests.support.unguarded import (
    CLAIMS_TAKEN_OVER,
    ENDED_ONCE,
    FENCING,
    GONE_TAKEN_OVER,
    KNOWN_REQUEST,
    LEASE,
    LINE,
    NO_HOLE,
    SAME_EVENT,
    TURN_IN_LINE,
    TURNS_TAKEN,
    unguarded,
)
from tests.support.valkey import running_valkey

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=20)
LEASE_MS = 60_000
IDLE_S = 0.05


class Scene:
    """A session of one user, on functions of which some guards may be off."""

    def __init__(self, redis):
        self.redis = redis
        self.sessions, self.log = RedisSessionStore(redis, LIFETIMES), RedisRunLog(redis, 60.0, 60.0)
        self.alice, self.session = Principal(uuid.uuid4().hex, "alice"), uuid.uuid4().hex

    async def begin(self, record=b"asked", request_id="", **order):
        """A run begins, or waits in the line."""
        request = Request(request_id, b"digest") if request_id else None
        return await self.sessions.begin(self.alice, self.session, request, LEASE_MS, 5, Order(record=record, **order))

    async def resume(self, run=0):
        """Another owner goes on."""
        return (await self.sessions.resume(self.alice, self.session, LEASE_MS, 5, run)).turn

    async def lease_ends(self):
        """As if so much time had passed."""
        await self.redis.execute("UNLINK", f"myriad:{{{self.alice.tenant}/{self.session}}}:lease")

    async def append(self, turn, first, *entries):
        """An owner writes."""
        log = Turn(self.run_id(turn), turn.token, False, "aura", ())
        await self.log.append(self.alice, log, first, entries, b"")

    async def end(self, turn, first, entry, said):
        """An owner ends its run."""
        message = read_message(common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, content=said))
        await self.sessions.end(self.alice, self.session, Ending(turn.run, turn.token, first, [entry], [message]))

    async def entries(self, turn):
        """The log, as it is."""
        return list((await self.log.read(self.alice, self.run_id(turn), 0, 100)).entries)

    def run_id(self, turn):
        return f"{self.session}.{turn.run}"


@pytest.fixture(scope="module")
async def url(tmp_path_factory):
    async with running_valkey(tmp_path_factory.mktemp("guards")) as url:
        yield url


@asynccontextmanager
async def client(url, off):
    redis = unguarded(Redis(url), *off)
    yield redis
    await redis.close()


@pytest.fixture
async def scene(url, off):
    """A session, on functions without the guards that are `off`."""
    async with client(url, off) as redis:
        made = Scene(redis)
        await made.sessions.create(made.alice, made.session, "aura", None)
        yield made


def guarded_by(*guards):
    """Plays a scene with these guards, and as the control without."""
    return pytest.mark.parametrize("off", [(), guards], ids=["guarded", "control"])


def refused(off, error):
    """What is refused where the guard is on."""
    return nullcontext() if off else pytest.raises(error)


@guarded_by(FENCING)
async def test_an_owner_that_was_replaced_writes_nothing(scene, off):
    stale = await scene.begin()
    await scene.append(stale, 1, b"begun")
    await scene.lease_ends()
    owner = await scene.resume()
    with refused(off, LeaseLost):
        await scene.append(stale, 2, b"stale")
    with refused(off, LeaseLost):
        await scene.end(stale, 3, b"the stale end", "stale")
    assert await scene.entries(owner) == ([b"begun", b"stale", b"the stale end"] if off else [b"begun"])


@guarded_by(FENCING)
async def test_an_owner_that_was_replaced_does_not_end_the_run_of_its_successor(scene, off):
    stale = await scene.begin()
    await scene.lease_ends()
    owner = await scene.resume()
    with refused(off, LeaseLost):
        await scene.end(stale, 1, b"the stale end", "stale")
    with pytest.raises(LeaseLost) if off else nullcontext():
        await scene.end(owner, 1, b"the end", "right")
    (kept,) = await scene.sessions.history(scene.alice, scene.session, 10)
    assert common_pb2.Message.FromString(kept.data).content == ("stale" if off else "right")


@guarded_by(SAME_EVENT)
async def test_an_event_in_a_place_that_is_taken_is_refused(scene, off):
    owner = await scene.begin()
    await scene.append(owner, 1, b"shown")
    with refused(off, LeaseLost):
        await scene.append(owner, 1, b"another")  # its writer would show what the log has not
    assert await scene.entries(owner) == [b"shown"]


@guarded_by(NO_HOLE)
async def test_a_log_has_no_holes(scene, off):
    owner = await scene.begin()
    await scene.append(owner, 1, b"1")
    with refused(off, Aborted):
        await scene.append(owner, 3, b"3")
    assert (await scene.entries(owner) == [b"1"]) is not bool(off)


@guarded_by(LEASE)
async def test_a_run_whose_owner_lives_is_not_gone_on_with_by_another(scene, off):
    owner = await scene.begin()
    with refused(off, SessionBusy):
        await scene.resume()
    with pytest.raises(LeaseLost) if off else nullcontext():
        await scene.append(owner, 1, b"mine")


@guarded_by(LINE)
async def test_a_turn_does_not_begin_before_those_that_wait(scene, off):
    first = await scene.begin()
    second = await scene.begin(b"second")
    await scene.end(first, 1, b"end", "done")
    third = await scene.begin(b"third")
    assert (second.queued, third.queued) == (True, not off)
    if not off:
        assert (await scene.resume()).run == second.run


@guarded_by(TURN_IN_LINE)
async def test_a_worker_that_has_a_later_run_of_a_session_does_not_begin_it_before_the_others(scene, off):
    second, third = [await scene.begin(record, defer=True) for record in (b"second", b"third")]
    with refused(off, SessionBusy):
        assert (await scene.resume(third.run)).run == third.run
    if not off:
        assert (await scene.resume(second.run)).run == second.run


@guarded_by(KNOWN_REQUEST)
async def test_a_request_that_is_repeated_begins_no_second_run(scene, off):
    first = await scene.begin(request_id="r")
    await scene.end(first, 1, b"end", "done")
    again = await scene.begin(request_id="r")
    assert (again.attached, again.run - first.run) == ((False, 1) if off else (True, 0))


@guarded_by(ENDED_ONCE)
async def test_an_end_whose_reply_was_lost_says_nothing_twice(scene, off):
    owner = await scene.begin()
    for _ in range(2):  # memory was killed before it could say that it was written
        await scene.end(owner, 1, b"end", "done")
    assert await scene.entries(owner) == [b"end"]
    assert len(await scene.sessions.history(scene.alice, scene.session, 10)) == (2 if off else 1)


@pytest.fixture
async def workers(url, off):
    """Two workers of a queue."""
    async with client(url, off) as redis:
        made = [RedisQueue(redis, uuid.uuid4().hex, IDLE_S) for _ in range(2)]
        yield made
        for queue in made:
            await queue.close()


@guarded_by(CLAIMS_TAKEN_OVER)
async def test_what_a_worker_claimed_that_died_is_claimed_by_another(workers, off):
    dead, other = workers
    name = uuid.uuid4().hex
    await dead.put(name, [Item("run", "acme", b"hint")])
    assert len(await dead.claim([name], 1, 0)) == 1
    claimed = await other.claim([name], 1, 6 * IDLE_S)
    assert [each.item.id for each in claimed] == ([] if off else ["run"])


@guarded_by(TURNS_TAKEN)
async def test_a_tenant_with_many_runs_does_not_hold_up_another(workers, off):
    worker, _ = workers
    name = uuid.uuid4().hex
    await worker.put(name, [Item(f"a{number}", "many", b"hint") for number in range(20)])
    await worker.put(name, [Item("first", "one", b"hint")])
    claimed = [each.item.id for _ in range(2) for each in await worker.claim([name], 1, 0)]
    assert ("first" in claimed) is not bool(off)


@guarded_by(GONE_TAKEN_OVER)
async def test_the_sessions_of_a_process_that_is_gone_become_anothers(url, off):
    async with client(url, off) as redis:
        gone, other = RedisOwners(redis, IDLE_S), RedisOwners(redis, 60.0)
        alice = Principal(uuid.uuid4().hex, "alice")
        await gone.beat()
        await gone.hold(alice, "s")
        await asyncio.sleep(2 * IDLE_S)
        for name in await other.beat():
            await other.take(name)
        assert list(await other.mine()) == ([] if off else [(alice, "s")])
