"""What every Runs does: it gives a run the result it waits for, and lets it go on."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
import pytest
import pytest_asyncio

from services.kit.call import Call, Principal, enter
from services.kit.errors import RunNotFound, RunNotWaiting
from services.kit.keys import SessionKeys
from services.kit.queue_inmemory import InMemoryQueue, InMemoryQueues
from services.kit.redis import Redis
from services.toolexec.adapters.inmemory_background import InMemoryRuns
from services.toolexec.adapters.redis_runs import RedisRuns
from services.toolexec.ports import Runs
from tests.support.valkey import UserRedis

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


@dataclass
class Kept:
    """A store of runs, and the queue they are put into."""

    runs: Runs
    redis: Redis | None
    queue: InMemoryQueue = field(default_factory=lambda: InMemoryQueue(InMemoryQueues(), 5))

    async def park(self, principal: Principal, run: int, tool_call_id: str, queue: str = "") -> None:
        """Leaves run n of the session s1 as the orchestrator does that lets it wait; for no call: at work."""
        if self.redis is None:
            self.runs.park(principal, f"s1.{run}", tool_call_id)
            return
        keys = SessionKeys(principal, "s1")
        await self.redis.execute("HSET", keys.session, "owner", principal.user, "runs", run, "current", run)
        await self.redis.execute("HSET", keys.work, "record", "x", "wake", queue)
        if tool_call_id:
            await self.redis.execute("HSET", keys.work, "waiting", f"tool:{tool_call_id}")
        for name in (keys.session, keys.work):
            await self.redis.execute("PEXPIRE", name, 60_000)

    async def go_on(self, principal: Principal, run: int) -> None:
        """Does what the store does when an owner takes the run."""
        if self.redis is None:
            self.runs.park(principal, f"s1.{run}", "")
        else:
            await self.redis.execute("HDEL", SessionKeys(principal, "s1").work, "answered")

    async def told(self, principal: Principal, run: int) -> bytes | None:
        """What the run was given."""
        if self.redis is None:
            return self.runs.told.get((principal.tenant, f"s1.{run}"))
        return await self.redis.execute("HGET", SessionKeys(principal, "s1").work, "response")


@pytest_asyncio.fixture(params=["inmemory", "valkey", "cluster"])
async def kept(request, valkey_url, cluster_url) -> AsyncIterator[Kept]:
    if request.param == "inmemory":
        yield Kept(InMemoryRuns(), None)
        return
    redis = UserRedis(valkey_url if request.param == "valkey" else cluster_url, "toolexec")
    made = Kept(InMemoryRuns(), redis.root)
    made.runs = RedisRuns(redis, made.queue)
    yield made
    await redis.close()


@pytest.fixture
def ann() -> Principal:
    return Principal("acme-" + secrets.token_hex(4), "ann")


async def test_a_run_that_waits_is_told_as_often_as_it_takes_until_it_goes_on(kept, ann):
    await kept.park(ann, 1, "c1")
    for _ in range(2):  # whoever told it first died before it was queued
        await kept.runs.wake(ann, "s1.1", "c1", b'{"a": 1}')
        assert await kept.told(ann, 1) == b'{"a": 1}'
    await kept.go_on(ann, 1)
    with pytest.raises(RunNotWaiting):
        await kept.runs.wake(ann, "s1.1", "c1", b"late")
    assert await kept.told(ann, 1) == b'{"a": 1}'


@pytest.mark.parametrize("waits_for", ["c2", "c", "c11", ""])
async def test_a_run_that_waits_for_something_else_is_told_nothing(kept, ann, waits_for):
    await kept.park(ann, 1, waits_for)
    with pytest.raises(RunNotWaiting):
        await kept.runs.wake(ann, "s1.1", "c1", b"{}")
    assert await kept.told(ann, 1) is None


async def test_a_run_that_is_over_or_never_was_is_not_found(kept, ann):
    await kept.park(ann, 2, "c1")
    for run_id in ("s1.1", "s1.3", "s2.2"):
        with pytest.raises(RunNotFound):
            await kept.runs.wake(ann, run_id, "c1", b"{}")
    with pytest.raises(RunNotFound):
        await kept.runs.wake(Principal(ann.tenant + "x", "ann"), "s1.2", "c1", b"{}")
    assert await kept.told(ann, 2) is None


@pytest.mark.parametrize(("came_by", "put_into"), [("COMPLEX", "COMPLEX"), ("", "SIMPLE")])
async def test_a_run_goes_on_by_the_queue_it_came_by(valkey_url, ann, came_by, put_into):
    redis = Redis(valkey_url)
    kept = Kept(InMemoryRuns(), redis)
    await kept.park(ann, 1, "c1", came_by)
    enter(Call("work", {}, None, "test", traceparent=TRACE))
    await RedisRuns(redis, kept.queue).wake(ann, "s1.1", "c1", b"{}")
    (claimed,) = await kept.queue.claim([put_into], 2, 0)
    assert claimed.item.id == f"{ann.tenant}/s1.1"
    assert orjson.loads(claimed.item.body) == [ann.tenant, "ann", "s1", 1]
    assert claimed.item.traceparent == TRACE
    await redis.close()
