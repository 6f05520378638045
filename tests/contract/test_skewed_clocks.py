"""The clock of the store decides when a run has waited for long enough: that of a process may be hours wrong."""

import time
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.errors import ApprovalInvalid, BudgetExhausted
from services.kit.queue_redis import RedisQueue
from services.kit.redis import Redis
from services.kit.run_ids import write_run_id
from services.memory.adapters.redis import RedisSessionStore
from services.memory.domain import Lifetimes, Order
from services.orchestrator.adapters.inmemory_services import InMemoryTools
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_owners import RedisOwners
from services.orchestrator.codec import EventCodec
from services.orchestrator.core.calling import Calling
from services.orchestrator.core.dispatch import Dispatch
from services.orchestrator.core.job import Job
from services.orchestrator.core.spending import Price, Spending
from services.orchestrator.domain.agent import Agent, ToolCall
from services.orchestrator.domain.log import ApprovalReason
from services.orchestrator.domain.run import Grant, Record, Turn
from services.orchestrator.domain.turn import Usage

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=6)
HOURS_S = 7200.0
CALL = ToolCall("call_1_0", "refund", "{}")


async def nothing_more(wanted: Amounts) -> Grant:
    raise AssertionError(wanted)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client = Redis(valkey_url)
    yield client
    await client.close()


@pytest.fixture(params=[-HOURS_S, 0.0, HOURS_S], ids=["slow", "right", "fast"])
def skew(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + request.param)


@pytest.fixture
def alice() -> Principal:
    return Principal(f"tenant-{uuid.uuid4().hex}", "alice")


@pytest.mark.usefixtures("skew")
@pytest.mark.parametrize(("answer_s", "late"), [(60.0, False), (0.02, True)])
async def test_a_run_can_be_answered_for_as_long_as_it_waits(
    redis: Redis, alice: Principal, answer_s: float, late: bool
) -> None:
    sessions, log = RedisSessionStore(redis, LIFETIMES), RedisRunLog(redis, 60.0, 30.0)
    session = (await sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id
    begun = await sessions.begin(alice, session, None, 10_000, 5, Order(b"asked"))
    turn = Turn(write_run_id(session, begun.run), begun.token, False, "aura", ())
    calling = Calling(InMemoryTools(), Agent("aura", 1, ""), turn.run_id, "SIMPLE", answer_s, time.time)
    waiting, _ = calling.ask(CALL, "1.0.x", ApprovalReason.SIDE_EFFECT, Amounts())
    await log.park(alice, turn, 1, [b"asks"], b"so far", waiting)
    if late:
        await redis.execute("WAIT", 1, 50)  # which lasts 50 ms, as there is no replica
        with pytest.raises(ApprovalInvalid):
            await log.respond(alice, turn.run_id, waiting.approval, "approved", b"yes", any_user=False)
    else:
        told = await log.respond(alice, turn.run_id, waiting.approval, "approved", b"yes", any_user=False)
        assert told.owner == alice


async def store_time(redis: Redis) -> float:
    seconds, micros = await redis.execute("TIME")
    return int(seconds) + int(micros) / 1e6


@pytest.mark.usefixtures("skew")
async def test_what_a_client_is_told_of_when_is_by_the_clock_of_the_store(redis: Redis) -> None:
    owners = RedisOwners(redis, 60.0)
    control = abs(owners.now() - await store_time(redis)) > HOURS_S / 2  # while it has not heard of the store's
    await owners.beat()
    right, skewed = await store_time(redis), abs(time.time() - await store_time(redis)) > HOURS_S / 2
    assert control == skewed
    calling = Calling(InMemoryTools(), Agent("aura", 1, ""), "s1.1", "SIMPLE", 60.0, owners.now)
    _, asked = calling.ask(CALL, "1.0.x", ApprovalReason.SIDE_EFFECT, Amounts())
    assert asked.expires_ms / 1000 == pytest.approx(right + 60, abs=5)
    granted = Turn("s1.1", 1, False, "aura", (), granted=Amounts(tool_calls=0), renews_ms=int((right + 600) * 1000))
    spending = Spending(Agent("aura", 1, ""), granted, Price(), nothing_more, owners.now)
    with pytest.raises(BudgetExhausted) as exhausted:
        spending.before_tool(Usage())
    assert exhausted.value.retry_after == pytest.approx(600, abs=5)


@pytest.mark.usefixtures("skew")
async def test_a_run_is_looked_after_when_it_has_waited_and_not_before(redis: Redis, alice: Principal) -> None:
    queue_name = f"class-{uuid.uuid4().hex}"
    queue, log = RedisQueue(redis, uuid.uuid4().hex, 30.0), RedisRunLog(redis, 60.0, 30.0)
    dispatch = Dispatch(queue, log, EventCodec(), lambda principal, session: None, {})
    turn = Turn("s1.1", 1, False, "aura", ())
    job = cast(
        Job,
        SimpleNamespace(
            run=SimpleNamespace(principal=alice, turn=turn), record=Record("hi", "aura", 1, (), queue_name)
        ),
    )
    await dispatch.remind(job, 0.1, "an answer")
    assert await queue.claim([queue_name], 1, 0.3) == []
    (claimed,) = await queue.claim([queue_name], 1, 2.0)
    assert claimed.item.id.startswith(f"{alice.tenant}/s1.1@")
    await queue.close()
