"""AgentStore: one list of behaviours for the fake, one Redis and a cluster of three primaries."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from services.kit.call import Principal
from services.kit.errors import AgentNotFound, ResourceExhausted
from services.memory.adapters.inmemory_agents import InMemoryAgentStore
from services.memory.adapters.redis_agents import RedisAgentStore
from services.memory.ports import AgentStore
from tests.support.valkey import UserRedis


@pytest.fixture(scope="module", params=["memory", "one", "cluster"])
async def store(request: pytest.FixtureRequest, valkey_url: str, cluster_url: str) -> AsyncIterator[AgentStore]:
    if request.param == "memory":
        yield InMemoryAgentStore(revisions_kept=3, agents_allowed=5)
        return
    redis = UserRedis(valkey_url if request.param == "one" else cluster_url, "memory")
    yield RedisAgentStore(redis, revisions_kept=3, agents_allowed=5)
    await redis.close()


@pytest.fixture
def alice() -> Principal:
    return Principal(f"tenant-{uuid.uuid4().hex}", "alice")


async def test_what_is_not_there_is_not_found(store: AgentStore, alice: Principal) -> None:
    assert not await store.has(alice, "aura")
    assert await store.list(alice) == []
    for revision in (0, 1):
        with pytest.raises(AgentNotFound):
            await store.get(alice, "aura", revision)
    await store.put(alice, "aura", b"d", b"c")
    with pytest.raises(AgentNotFound):
        await store.get(alice, "aura", 2)


async def test_an_agent_is_its_tenants_alone(store: AgentStore, alice: Principal) -> None:
    other = Principal(alice.tenant + "x", alice.user)
    await store.put(alice, "aura", b"d", b"c")
    assert not await store.has(other, "aura")
    assert await store.list(other) == []
    with pytest.raises(AgentNotFound):
        await store.get(other, "aura", 0)
    assert await store.has(Principal(alice.tenant, "bob"), "aura")


async def test_a_change_is_a_new_revision_and_the_same_is_none(store: AgentStore, alice: Principal) -> None:
    first = await store.put(alice, "aura", b"\x00\n1", b"one\x00")
    assert (first.revision, first.content, first.created_ms > 0) == (1, b"one\x00", True)
    assert await store.put(alice, "aura", b"\x00\n1", b"one\x00") == first
    second = await store.put(alice, "aura", b"2", b"two")
    assert second.revision == 2
    third = await store.put(alice, "aura", b"\x00\n1", b"one\x00")
    assert third.revision == 3
    assert await store.get(alice, "aura", 1) == first
    assert await store.get(alice, "aura", 2) == second
    assert await store.get(alice, "aura", 0) == third


async def test_old_revisions_go_first(store: AgentStore, alice: Principal) -> None:
    for i in range(5):
        await store.put(alice, "aura", str(i).encode(), b"c")
    for revision in (1, 2):
        with pytest.raises(AgentNotFound):
            await store.get(alice, "aura", revision)
    assert [(await store.get(alice, "aura", revision)).revision for revision in (3, 4, 5, 0)] == [3, 4, 5, 5]


async def test_the_same_change_made_at_once_is_one_revision(store: AgentStore, alice: Principal) -> None:
    agents = await asyncio.gather(*(store.put(alice, "aura", b"d", b"c") for _ in range(10)))
    assert {agent.revision for agent in agents} == {1}


async def test_agents_are_listed_by_name_with_their_latest_revision(store: AgentStore, alice: Principal) -> None:
    for name in ("crm", "aura", "bot"):
        await store.put(alice, name, b"1", b"old")
    await store.put(alice, "aura", b"2", b"new")
    listed = await store.list(alice)
    assert [(agent.name, agent.revision, agent.content) for agent in listed] == [
        ("aura", 2, b"new"),
        ("bot", 1, b"old"),
        ("crm", 1, b"old"),
    ]


async def test_a_tenant_has_no_more_agents_than_it_may(store: AgentStore, alice: Principal) -> None:
    for i in range(5):
        await store.put(alice, f"a{i}", b"d", b"c")
    with pytest.raises(ResourceExhausted):
        await store.put(alice, "a5", b"d", b"c")
    assert (await store.put(alice, "a4", b"e", b"c")).revision == 2
    assert len(await store.list(alice)) == 5
