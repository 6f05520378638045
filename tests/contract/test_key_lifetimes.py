"""What is kept in Redis has a lifetime, and goes with its session."""

import json
import uuid

from redis.asyncio import Redis as Client

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.keys import SessionKeys, encode
from services.kit.redis import Redis
from services.kit.run_ids import write_run_id
from services.memory.adapters.redis import RedisSessionStore
from services.memory.domain import Ending, Lifetimes, Message, Order, Request, Role
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_callbacks import RedisCallbackStore
from services.orchestrator.domain.run import Turn, Waiting
from services.toolexec.adapters.redis import RedisResultStore
from services.toolexec.domain import CallKey

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=30_000, history_cap=6)
LEASE_MS = 10_000


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
    await store.begin(principal, "s1", None, LEASE_MS, 5)
    keys = await _keys_of(valkey_url, principal.tenant)
    kinds = {name.rpartition("}:")[2] for name in keys}
    assert kinds == {
        "session", "lease", "history", "requests", "request_times", "log:1", "log:2", "log:3", "sessions", "created:r",
        "begun:r0", "begun:r1", "begun:r2",
    }  # fmt: skip
    assert all(ttl > 0 for ttl in keys.values()), keys
    await redis.execute("UNLINK", SessionKeys(principal, "s1").lease)  # its time has passed
    await store.delete(principal, session.session_id)
    assert await _keys_of(valkey_url, principal.tenant) == {}
    await redis.close()


async def test_every_key_of_a_run_that_waits_has_a_lifetime_and_goes_with_its_session(valkey_url: str) -> None:
    redis = Redis(valkey_url)
    principal = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    store, log = RedisSessionStore(redis, LIFETIMES), RedisRunLog(redis, 30.0, 10.0)
    await store.create(principal, "s1", "aura", None)
    first = await store.begin(principal, "s1", None, LEASE_MS, 5, Order(b"asked"))
    run_id = write_run_id("s1", first.run)
    await redis.execute("HSET", SessionKeys(principal, "s1").session, "reservation", "user")  # as if it had a budget
    second = await store.begin(principal, "s1", None, LEASE_MS, 5, Order(b"next"))
    await RedisCallbackStore(redis).expect(principal, run_id, "https://example.com/hook")
    await RedisResultStore(redis).begin(principal, CallKey(run_id, "pay", "1.0.x"), 5)
    asks = Waiting("answer", 60.0, "SIMPLE", "digest", json.dumps({"run": first.run, "state": "open"}).encode())
    turn = Turn(run_id, first.token, False, "aura", ())
    await log.park(principal, turn, 1, [b"asks"], b"so far", asks, Amounts(tokens=7))
    keys = await _keys_of(valkey_url, principal.tenant)
    assert {name.rpartition("}:")[2].partition(":")[0] for name in keys} == {
        "session", "sessions", "work", "line", "records", "outbox", "approvals", "effects", "callback", "tool", "log",
    }  # fmt: skip
    assert all(ttl > 0 for ttl in keys.values()), keys
    await log.respond(principal, run_id, "digest", "denied", b"no", any_user=False)
    for run in (first.run, second.run):
        resumed = await store.resume(principal, "s1", LEASE_MS, 5)
        await store.end(principal, "s1", Ending(run, resumed.turn.token, 1 + (run == first.run), [b"over"]))
        keys = await _keys_of(valkey_url, principal.tenant)
        assert all(ttl > 0 for ttl in keys.values()), keys
    await store.delete(principal, "s1")
    assert await _keys_of(valkey_url, principal.tenant) == {}
    await redis.close()
