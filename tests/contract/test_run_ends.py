"""RunEnds, and how a run's end is told by whoever finds it: one list for the fake, one Redis and a cluster."""

import uuid
from collections.abc import AsyncIterator

import pytest

from services.kit.call import Principal
from services.kit.keys import SessionKeys
from services.kit.telemetry import open_telemetry
from services.memory.adapters.redis import RedisSessionStore
from services.memory.domain import Ending, Lifetimes
from services.orchestrator.adapters.inmemory_events import InMemoryEvents, InMemoryRunEnds
from services.orchestrator.adapters.redis_run_ends import RedisRunEnds
from services.orchestrator.codec import EventCodec
from services.orchestrator.core.events import EventBus
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.domain.log import Completed, Started
from services.orchestrator.domain.turn import Usage
from services.orchestrator.event_codec import read_end
from tests.support.valkey import UserRedis

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=12)


class Logs:
    """A session of Ann's whose runs have logs, and its port."""

    def __init__(self, redis: UserRedis | None) -> None:
        self.redis = redis
        self.ann = Principal(f"tenant-{uuid.uuid4().hex}", "ann")
        self.session_id = uuid.uuid4().hex
        self.port = RedisRunEnds(redis) if redis else InMemoryRunEnds()

    async def open(self) -> None:
        if self.redis is None:
            self.port.logs[self.ann.tenant, "ann", self.session_id] = []
        else:
            await RedisSessionStore(self.redis.root, LIFETIMES).create(self.ann, self.session_id, "aura", None)

    async def run(self, *entries: bytes) -> None:
        """One whole run with these entries."""
        if self.redis is None:
            self.port.logs[self.ann.tenant, "ann", self.session_id].append(list(entries))
            return
        store = RedisSessionStore(self.redis.root, LIFETIMES)
        turn = await store.begin(self.ann, self.session_id, None, 10_000, 5)
        await store.end(self.ann, self.session_id, Ending(turn.run, turn.token, 1, entries))

    async def forget(self, run: int) -> None:
        """The log of a run has expired."""
        if self.redis is None:
            self.port.logs[self.ann.tenant, "ann", self.session_id][run - 1] = []
        else:
            await self.redis.execute("UNLINK", SessionKeys(self.ann, self.session_id).log(run))


@pytest.fixture(params=["memory", "one", "cluster"])
async def logs(request: pytest.FixtureRequest, valkey_url: str, cluster_url: str) -> AsyncIterator[Logs]:
    url = {"memory": "", "one": valkey_url, "cluster": cluster_url}[request.param]
    redis = UserRedis(url, "orchestrator") if url else None
    made = Logs(redis)
    await made.open()
    yield made
    if redis:
        await redis.close()


async def test_of_what_is_anothers_or_not_there_nothing_is_known(logs):
    await logs.run(b"a")
    for who, what in (
        (Principal(logs.ann.tenant, "bob"), logs.session_id),
        (Principal(f"{logs.ann.tenant}x", "ann"), logs.session_id),
        (logs.ann, "none"),
    ):
        assert await logs.port.newest(who, what) == 0
    assert list(await logs.port.ends(logs.ann, "none", [1, 2])) == []
    assert list(await logs.port.ends(logs.ann, logs.session_id, [])) == []


async def test_both_ends_of_each_log_that_is_kept_in_the_order_asked_for(logs):
    assert await logs.port.newest(logs.ann, logs.session_id) == 0
    await logs.run(b"a", b"b", b"c")
    await logs.run(b"lost")
    await logs.run(b"alone")
    await logs.forget(2)
    assert await logs.port.newest(logs.ann, logs.session_id) == 3
    found = await logs.port.ends(logs.ann, logs.session_id, [4, 3, 2, 1])
    assert list(found) == [(3, b"alone", b"alone"), (1, b"a", b"c")]


async def test_what_a_killed_process_did_not_tell_is_found_in_the_log(logs):
    encode = EventCodec().encode
    run_id = f"{logs.session_id}.1"
    await logs.run(encode(run_id, 1, Started("aura", 3)), encode(run_id, 2, Completed("yes", Usage())))
    told = InMemoryEvents()
    bus = EventBus(told, open_telemetry("test", "", 0.0).events, flush_s=0.001)
    assert await told.newest(logs.ann.tenant) == "0-0"  # the process was killed before it told
    await RunEvents(bus, logs.port, read_end).tell_again(logs.ann, logs.session_id)
    ((_, event),) = await told.read(logs.ann.tenant, "0", 10, 5.0)
    assert (event.id, event.attributes) == (f"{run_id}/run.completed", {"agent": "aura"})
    await bus.close()
