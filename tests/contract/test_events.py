"""Events and FeedbackStore: one list of behaviours for the fakes, one Redis and a cluster."""

import asyncio
import uuid

import orjson
import pytest

from services.kit.call import Principal
from services.kit.errors import RunNotFound, StoreUnavailable
from services.kit.keys import SessionKeys, TenantKeys
from services.kit.redis import Redis
from services.memory.adapters.redis import RedisSessionStore
from services.memory.domain import Lifetimes, Order
from services.orchestrator.adapters.inmemory_events import InMemoryEvents, InMemoryFeedbackStore
from services.orchestrator.adapters.redis_events import RedisEvents
from services.orchestrator.adapters.redis_feedback import RedisFeedbackStore
from services.orchestrator.domain.events import DomainEvent

USER = "orchestrator"
LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=12)
WOKEN_S = 2.0
"""Less than whoever waits five seconds waits if nobody tells it."""
LAST = f"{2**64 - 1}-{2**64 - 1}"


@pytest.fixture(params=["memory", "one", "cluster"])
def redis(request: pytest.FixtureRequest, one: Redis, cluster: Redis) -> Redis | None:
    return {"memory": None, "one": one, "cluster": cluster}[request.param]


@pytest.fixture
def events(redis: Redis | None):
    return RedisEvents(redis) if redis else InMemoryEvents()


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid.uuid4().hex}"


def event(tenant: str, number: int = 1, **attributes: str) -> DomainEvent:
    return DomainEvent(
        tenant, f"s1.{number}/run.started", "run.started", 1_000 + number, "ann", "s1", "s1.1", attributes
    )


async def test_where_nothing_happened_there_is_nothing(events, tenant):
    assert await events.newest(tenant) == "0-0"
    for after in ("0", "0-0", "5-7", LAST):
        assert list(await events.read(tenant, after, 10)) == []
    await events.publish([])


async def test_events_come_back_whole_and_in_order(events, tenant):
    told = [event(tenant, number, agent="süß \n\x00", score="5") for number in range(1, 6)]
    await events.publish(told[:2])
    await events.publish(told[2:])
    found = list(await events.read(tenant, "0", 10))
    assert [each for _, each in found] == told
    assert await events.newest(tenant) == found[-1][0]


async def test_a_cursor_is_where_one_goes_on(events, tenant):
    told = [event(tenant, number) for number in range(1, 6)]
    await events.publish(told)
    seen, after = [], "0"
    while page := list(await events.read(tenant, after, 2)):
        assert len(page) <= 2
        seen += [each for _, each in page]
        after = page[-1][0]
    assert seen == told
    assert list(await events.read(tenant, LAST, 2)) == []


async def test_one_tenant_never_sees_another(events, tenant):
    await events.publish([event(tenant, 1), event(tenant + "/", 2), event(tenant + "x", 3)])
    for name, number in ((tenant, 1), (tenant + "/", 2), (tenant + "x", 3)):
        assert [each for _, each in await events.read(name, "0", 10)] == [event(name, number)]


async def test_who_waits_is_told_at_once_and_not_for_ever(events, tenant):
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert list(await events.read(tenant, "0", 10, 0.1)) == []
    assert 0.05 < loop.time() - began < WOKEN_S
    waiting = asyncio.create_task(events.read(tenant, "0", 10, 5.0))
    await asyncio.sleep(0.05)
    began = loop.time()
    await events.publish([event(tenant)])
    assert [each for _, each in await waiting] == [event(tenant)]
    assert loop.time() - began < WOKEN_S


async def test_who_waits_and_leaves_disturbs_nobody(events, tenant):
    waiting = [asyncio.create_task(events.read(tenant, "0", 10, 5.0)) for _ in range(4)]
    await asyncio.sleep(0.05)
    for task in waiting[:3]:
        task.cancel()
    await events.publish([event(tenant)])
    assert [each for _, each in await waiting[3]] == [event(tenant)]
    assert await events.newest(tenant) != "0-0"


async def test_only_so_many_are_kept(redis, tenant):
    events = RedisEvents(redis, kept=100) if redis else InMemoryEvents(kept=100)
    for first in range(0, 1_000, 100):
        await events.publish([event(tenant, number) for number in range(first, first + 100)])
    found = list(await events.read(tenant, "0", 2_000))
    assert found[-1][1] == event(tenant, 999)
    assert 100 <= len(found) <= 300  # the store trims roughly


async def test_they_are_gone_after_their_time(one, tenant):
    await RedisEvents(one, kept_ms=60_000).publish([event(tenant)])
    key = TenantKeys(Principal(tenant, "x")).events
    assert 0 < await one.execute("PTTL", key) <= 60_000


async def test_a_store_that_is_away_is_said_to_be():
    away = Redis("redis://127.0.0.1:1")
    for attempt in (RedisEvents(away).publish([event("t")]), RedisEvents(away).read("t", "0", 1, 0.1)):
        with pytest.raises(StoreUnavailable):
            await attempt
    await away.close()


@pytest.fixture
async def feedback(redis: Redis | None, tenant: str):
    """The store, the user, and a run of theirs."""
    ann = Principal(tenant, "ann")
    if redis is None:
        store = InMemoryFeedbackStore()
        store.add_run(ann, "s1.1", "aura")
        return store, ann, "s1.1"
    sessions = RedisSessionStore(redis.root, LIFETIMES)
    session = await sessions.create(ann, uuid.uuid4().hex, "aura", None)
    await sessions.begin(ann, session.session_id, None, 10_000, 5, Order(b"asked"))
    return RedisFeedbackStore(redis), ann, f"{session.session_id}.1"


async def test_a_run_that_is_anothers_or_was_never_begun_is_not_found(feedback):
    store, ann, run_id = feedback
    session_id = run_id.rpartition(".")[0]
    for who, what in (
        (Principal(ann.tenant, "bob"), run_id),
        (Principal(ann.tenant + "x", "ann"), run_id),
        (ann, f"{session_id}.2"),
        (ann, f"{session_id}.999999999"),
        (ann, "none.1"),
    ):
        with pytest.raises(RunNotFound) as refused:
            await store.put(who, what, 5, "well", 1)
        assert (refused.value.message, refused.value.retry_after) == ("no such run", None)


async def test_a_word_names_the_agent_and_a_second_replaces_the_first(feedback, redis):
    store, ann, run_id = feedback
    for score, text in ((1, "bad \x00 ü"), (5, "")):
        assert await store.put(ann, run_id, score, text, 7) == "aura"
        if redis is None:
            assert store.kept == {(ann.tenant, run_id): (score, text, 7)}
        else:
            key = SessionKeys(ann, run_id.rpartition(".")[0]).session
            kept = orjson.loads(await redis.execute("HGET", key, "feedback:1"))
            assert kept == {"score": score, "text": text, "time_ms": 7}


async def test_a_word_lives_and_dies_with_its_session(one, tenant):
    ann = Principal(tenant, "ann")
    sessions = RedisSessionStore(one.root, LIFETIMES)
    session = await sessions.create(ann, uuid.uuid4().hex, "aura", None)
    turn = await sessions.begin(ann, session.session_id, None, 1, 5)
    assert turn.run == 1
    await RedisFeedbackStore(one).put(ann, f"{session.session_id}.1", 5, "well", 7)
    assert (await sessions.get(ann, session.session_id)).run_count == 1
    await asyncio.sleep(0.01)
    await sessions.delete(ann, session.session_id)
    keys = SessionKeys(ann, session.session_id)
    assert await one.execute("EXISTS", keys.session) == 0
    with pytest.raises(RunNotFound):
        await RedisFeedbackStore(one).put(ann, f"{session.session_id}.1", 5, "well", 7)
