"""What the orchestrator does to a run's log by functions, and what turns leave in Redis."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis as Client

from services.kit.call import Principal
from services.kit.errors import Aborted, LeaseLost, RunNotFound, SessionNotFound
from services.kit.keys import SessionKeys, UserKeys, encode
from services.kit.redis import Redis
from services.memory.adapters.redis import RedisSessionStore
from services.memory.domain import Ending, Lifetimes, Message, Request, Role
from tests.support.proxy import running_proxy

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=30_000, history_cap=6)
LEASE_MS = 10_000


@pytest.fixture(params=["one", "cluster"])
async def redis(request: pytest.FixtureRequest, valkey_url: str, cluster_url: str) -> AsyncIterator[Redis]:
    client = Redis(valkey_url if request.param == "one" else cluster_url)
    yield client
    await client.close()


@dataclass
class Run:
    """A run begun, and what its owner and others do to it."""

    redis: Redis
    principal: Principal
    session_id: str
    number: int
    token: int

    @property
    def keys(self) -> SessionKeys:
        return SessionKeys(self.principal, self.session_id)

    @property
    def names(self) -> tuple[str, str, str]:
        return (self.keys.session, self.keys.lease, self.keys.log(self.number), self.keys.work)

    async def append(self, first: int, *events: bytes, token: int = 0, lease_ms: int = 0) -> bool:
        arguments = (self.number, token or self.token, first, LIFETIMES.log_ms, lease_ms, b"")
        return bool(await self.redis.call("run_append", self.names, *arguments, *events))

    async def cancel(self, user: str = "alice", number: int = 0) -> int:
        found: int = await self.redis.call("run_cancel", (self.keys.session,), user, number or self.number)
        return found

    async def read(self, after: int = 0, count: int = 100, user: str = "alice") -> tuple[int, int, list[bytes]]:
        over, held, events = await self.redis.call("run_read", self.names, user, self.number, after, count)
        return over, held, events

    async def end(self, sequence: int, event: bytes = b"last") -> None:
        store = RedisSessionStore(self.redis, LIFETIMES)
        await store.end(self.principal, self.session_id, Ending(self.number, self.token, sequence, [event]))

    async def next(self) -> "Run":
        store = RedisSessionStore(self.redis, LIFETIMES)
        turn = await store.begin(self.principal, self.session_id, None, LEASE_MS, 5)
        return Run(self.redis, self.principal, self.session_id, turn.run, turn.token)


@pytest.fixture
async def run(redis: Redis) -> Run:
    principal = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    session = await RedisSessionStore(redis, LIFETIMES).create(principal, uuid.uuid4().hex, "aura", None)
    return await Run(redis, principal, session.session_id, 0, 0).next()


async def test_events_are_read_in_order_from_a_cursor_on(run: Run) -> None:
    assert await run.read() == (0, 1, [])
    assert await run.append(1, b"1", b"\x00\xff") is False
    assert await run.append(3, b"3") is False
    assert await run.read() == (0, 1, [b"1", b"\x00\xff", b"3"])
    assert await run.read(after=1, count=1) == (0, 1, [b"\x00\xff"])
    assert await run.read(after=3) == (0, 1, [])
    entries = await run.redis.execute("XRANGE", run.keys.log(1), "2-0", "+")
    assert entries == [[b"2-0", [b"e", b"\x00\xff"]], [b"3-0", [b"e", b"3"]]]
    assert 0 < await run.redis.execute("PTTL", run.keys.log(1)) <= LIFETIMES.log_ms


async def test_events_appended_again_change_nothing(run: Run) -> None:
    await run.append(1, b"1", b"2")
    await run.append(1, b"1", b"2")
    await run.append(2, b"2", b"3")
    assert (await run.read())[2] == [b"1", b"2", b"3"]


async def test_another_event_in_a_taken_place_is_refused_whole(run: Run) -> None:
    await run.append(1, b"1", b"2")
    for first, events in ((2, (b"other", b"3")), (1, (b"other",)), (1, (b"1", b"2", b"3")[::-1])):
        with pytest.raises(LeaseLost):
            await run.append(first, *events)
    assert (await run.read())[2] == [b"1", b"2"]


async def test_a_hole_is_refused(run: Run) -> None:
    with pytest.raises(Aborted):
        await run.append(2, b"2")
    await run.append(1, b"1")
    with pytest.raises(Aborted):
        await run.append(3, b"3")
    with pytest.raises(Aborted):
        await run.end(3)
    await run.end(2)
    assert await run.read() == (1, 0, [b"1", b"last"])


async def test_an_old_token_writes_nothing(run: Run) -> None:
    await run.append(1, b"1")
    await run.redis.execute("UNLINK", run.keys.lease)
    later = await run.next()
    with pytest.raises(LeaseLost):
        await run.append(2, b"2")
    with pytest.raises(LeaseLost):
        await run.append(2, lease_ms=60_000)
    with pytest.raises(LeaseLost):
        await later.append(1, b"1", token=run.token)
    with pytest.raises(LeaseLost):
        await run.end(2)
    assert await run.read() == (1, 0, [b"1"])
    assert await run.redis.execute("GET", run.keys.lease) == str(later.token).encode()


async def test_a_run_that_ended_takes_no_more_events(run: Run) -> None:
    await run.end(1)
    with pytest.raises(LeaseLost):
        await run.append(2, b"2")
    with pytest.raises(LeaseLost):
        await run.append(2, lease_ms=60_000)
    assert await run.redis.execute("EXISTS", run.keys.lease) == 0


async def test_an_append_holds_the_session_further(run: Run) -> None:
    assert await run.append(1, lease_ms=60_000) is False
    assert LEASE_MS < await run.redis.execute("PTTL", run.keys.lease) <= 60_000
    await run.append(1, b"1")
    assert await run.redis.execute("PTTL", run.keys.lease) > LEASE_MS
    await run.redis.execute("UNLINK", run.keys.lease)
    assert await run.read() == (0, 0, [b"1"])
    await run.append(2, b"2", lease_ms=60_000)
    assert await run.read() == (0, 1, [b"1", b"2"])


async def test_a_cancelled_run_is_told_so_and_the_next_is_not(run: Run) -> None:
    assert await run.cancel() == 1
    assert await run.cancel() == 1
    assert await run.append(1) is True
    assert await run.append(1, b"1") is True
    await run.end(2)
    assert await run.cancel() == 0
    later = await run.next()
    assert await later.append(1, b"1") is False
    assert await run.cancel() == 0
    assert await later.append(2, b"2") is False


async def test_only_its_user_reaches_a_run(run: Run) -> None:
    await run.append(1, b"1")
    for attempt in (run.cancel(user="mallory"), run.cancel(number=2), run.read(user="mallory")):
        with pytest.raises(RunNotFound):
            await attempt
    absent = Run(run.redis, run.principal, "none", 1, 1)
    for attempt in (absent.cancel(), absent.read()):
        with pytest.raises(RunNotFound):
            await attempt
    with pytest.raises(LeaseLost):
        await absent.append(1, b"1")
    for number in (0, -1, 2):
        with pytest.raises(RunNotFound):
            await Run(run.redis, run.principal, run.session_id, number, 1).read()
    assert await run.append(2, b"2") is False


async def test_anothers_session_comes_into_nobodys_index_and_is_not_made_anew(run: Run) -> None:
    mallory = Principal(run.principal.tenant, "mallory")
    with pytest.raises(SessionNotFound):
        await RedisSessionStore(run.redis, LIFETIMES).begin(mallory, run.session_id, None, LEASE_MS, 5)
    assert await run.redis.execute("EXISTS", UserKeys(mallory).sessions) == 0
    with pytest.raises(SessionNotFound):
        await run.redis.call("session_create", (run.keys.session,), "mallory", "aura", "", LIFETIMES.session_ms)


async def test_a_log_that_expired_is_no_run(run: Run) -> None:
    await run.end(1)
    await run.redis.execute("UNLINK", run.keys.log(1))
    with pytest.raises(RunNotFound):
        await run.read()


async def test_of_many_writers_of_one_place_one_wins(run: Run) -> None:
    results = await asyncio.gather(*(run.append(1, str(i).encode()) for i in range(10)), return_exceptions=True)
    assert sum(result is False for result in results) == 1
    assert sum(isinstance(result, LeaseLost) for result in results) == 9


async def _keys_of(url: str, tenant: str) -> dict[str, int]:
    """Every key of a tenant, and its time to live in milliseconds."""
    port = int(url.rpartition(":")[2])
    async with Client(port=port, protocol=2) as client:
        names = [name.decode() async for name in client.scan_iter(f"*{encode(tenant)}*", count=1000)]
        return {name: await client.pttl(name) for name in names}


async def test_every_key_has_a_lifetime_and_a_deleted_session_leaves_none(valkey_url: str) -> None:
    redis = Redis(valkey_url)
    principal = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    store = RedisSessionStore(redis, LIFETIMES)
    session = await store.create(principal, "s1", "aura", Request("r", b"d"))
    for i in range(3):
        turn = await store.begin(principal, "s1", Request(f"r{i}", b"d"), LEASE_MS, 5)
        ending = Ending(turn.run, turn.token, 1, [b"over"], [Message(Role.USER, 2, b"\x08\x02\x12\x02hi")])
        await store.end(principal, "s1", ending)
        assert all(ttl > 0 for ttl in (await _keys_of(valkey_url, principal.tenant)).values())
    await store.begin(principal, "s1", None, 50, 5)
    keys = await _keys_of(valkey_url, principal.tenant)
    kinds = {name.rpartition("}:")[2] for name in keys}
    assert kinds == {
        "session", "lease", "history", "requests", "request_times", "log:1", "log:2", "log:3", "sessions", "created:r",
    }  # fmt: skip
    assert all(ttl > 0 for ttl in keys.values()), keys
    await asyncio.sleep(0.06)
    await store.delete(principal, session.session_id)
    assert await _keys_of(valkey_url, principal.tenant) == {}
    await redis.close()


async def test_beginning_a_turn_is_one_round_trip_of_two_calls(valkey_url: str) -> None:
    principal = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    async with running_proxy(valkey_url) as (proxy, url):
        redis = Redis(url)
        store = RedisSessionStore(redis, LIFETIMES)
        await store.create(principal, "s1", "aura", None)
        before, calls = proxy.round_trips, await _calls(valkey_url)
        turn = await store.begin(principal, "s1", Request("r", b"d"), LEASE_MS, 5)
        assert proxy.round_trips - before == 1
        assert await _calls(valkey_url) - calls == 2  # one a tag
        await store.end(principal, "s1", Ending(turn.run, turn.token, 1, [b"over"]))
        assert proxy.round_trips - before == 2
        assert proxy.connections == 1
        await redis.close()


async def _calls(url: str) -> int:
    async with Client.from_url(url, protocol=2) as client:
        found = await client.info("commandstats")
        return int(found["cmdstat_fcall"]["calls"])


async def test_listing_takes_what_expired_out_of_the_index_but_not_what_is_being_made(valkey_url: str) -> None:
    redis = Redis(valkey_url)
    principal = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    store, index = RedisSessionStore(redis, LIFETIMES), UserKeys(principal).sessions
    await redis.execute("ZADD", index, 1, "expired")
    await redis.call("session_add", (index,), "coming", b"", LIFETIMES.session_ms, 1)
    assert (await store.page(principal, None, 5)).sessions == []
    assert await redis.execute("ZRANGE", index, 0, -1) == [b"coming"]
    await redis.close()
