"""A session that is deleted leaves nothing in its tag: not what its runs said, nor what their tools answered."""

import json
import uuid
from collections.abc import AsyncIterator

import pytest

from services.kit.call import Principal
from services.kit.errors import SessionNotFound
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.run_ids import write_run_id
from services.memory.adapters.redis import RedisSessionStore
from services.memory.domain import Ending, Lifetimes, Message, Order, Request, Role
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_callbacks import RedisCallbackStore
from services.orchestrator.domain import run as orchestrator
from services.toolexec.adapters.redis import RedisResultStore
from services.toolexec.adapters.redis_executions import RedisExecutions
from services.toolexec.domain import BackgroundCall, Begun, CallKey, Outcome, State

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=6)
LEASE_MS = 10_000
RUNS = 3


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = Redis(valkey_url)
    yield client
    await client.close()


async def keys_of(redis: Redis, principal: Principal, session_id: str) -> set[str]:
    """The kinds of all keys in a session's tag."""
    tag = SessionKeys(principal, session_id).session.removesuffix("session")
    found = await redis.execute("KEYS", tag.replace("{", "\\{") + "*")
    return {key.decode().removeprefix(tag).split(":")[0] for key in found}


async def fill(redis: Redis, principal: Principal, session_id: str) -> None:
    """Runs that ended, called tools in all ways, and have callbacks."""
    sessions, log = RedisSessionStore(redis, LIFETIMES), RedisRunLog(redis, 60.0, 30.0)
    results, executions = RedisResultStore(redis), RedisExecutions(redis)
    for number in range(1, RUNS + 1):
        request = Request(f"{session_id}-{number}", b"d")
        turn = await sessions.begin(principal, session_id, request, LEASE_MS, 5, Order(b"asked"))
        run_id = write_run_id(session_id, turn.run)
        held = orchestrator.Turn(run_id, turn.token, False, "aura", ())
        await RedisCallbackStore(redis).expect(principal, run_id, "https://example.com/hook")
        await log.append(principal, held, 1, [b"begun"], b"so far")
        plain = CallKey(run_id, "search", f"1.0.{number}")
        begun = await results.begin(principal, plain, 30.0)
        assert isinstance(begun, Begun)
        await results.finish(principal, plain, begun.ticket, Outcome('{"secret": 1}', False, 0.1), 86_400.0)
        slow, call = CallKey(run_id, "report", f"2.0.{number}"), BackgroundCall("aura", 1, "{}", "c1", False)
        await executions.begin(principal, slow, call, "", 60.0)
        await executions.take(principal, slow, "ticket", 3, 86_400.0)
        await executions.finish(
            principal, slow, "ticket", State.DONE, Outcome('{"secret": 2}', False, 0.1), "", 86_400.0
        )
        good_for = {"run": turn.run, "tool": "refund", "key": "3.0.x", "expires_ms": 2**52, "state": "open"}
        waiting = orchestrator.Waiting("answer", 60.0, "", f"approval-{number}", json.dumps(good_for).encode())
        await log.park(principal, held, 2, [b"asks"], b"so far", waiting)
        await log.respond(principal, run_id, f"approval-{number}", "approved", b"yes", any_user=False)
        turn = (await sessions.resume(principal, session_id, LEASE_MS, 5)).turn
        paid = CallKey(run_id, "refund", "3.0.x")
        assert isinstance(await results.begin_approved(principal, paid, f"approval-{number}", 30.0), Begun)
        said = [Message(Role.USER, 5, b"\x08\x02")]
        await sessions.end(principal, session_id, Ending(turn.run, turn.token, 3, [b"over"], said))


async def test_it_leaves_nothing_in_its_tag(redis: Redis) -> None:
    alice, session_id = Principal(f"tenant-{uuid.uuid4().hex}", "alice"), uuid.uuid4().hex
    sessions = RedisSessionStore(redis, LIFETIMES)
    for each in (session_id, "other"):
        await sessions.create(alice, each, "aura", None)
        await fill(redis, alice, each)
    kinds = {"session", "history", "requests", "request_times", "approvals", "log", "tool", "execution", "callback"}
    assert await keys_of(redis, alice, session_id) == kinds | {"effects"}  # the control
    await sessions.delete(alice, session_id)
    assert await keys_of(redis, alice, session_id) == set()
    assert await keys_of(redis, alice, "other") == kinds | {"effects"}
    with pytest.raises(SessionNotFound):
        await sessions.delete(alice, session_id)


async def test_what_is_noted_of_tool_calls_does_not_grow_with_the_age_of_a_session(redis: Redis) -> None:
    alice, session_id = Principal(f"tenant-{uuid.uuid4().hex}", "alice"), uuid.uuid4().hex
    await RedisSessionStore(redis, LIFETIMES).create(alice, session_id, "aura", None)
    key = SessionKeys(alice, session_id).effects
    await redis.execute("ZADD", key, 1, "long gone", 2, "gone too")
    await RedisResultStore(redis).begin(alice, CallKey(f"{session_id}.1", "search", "k"), 30.0)
    (noted,) = await redis.execute("ZRANGE", key, 0, -1)
    assert noted.decode() == SessionKeys(alice, session_id).tool_call(1, "alice", "search", "k")
    assert 86_400_000 < await redis.execute("PTTL", key) < 2 * 86_400_000
