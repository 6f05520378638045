"""DeadLetters: one list of behaviours for the fake, one Redis and a cluster of three primaries."""

import asyncio
import time
import uuid

import pytest

from services.kit.call import Principal
from services.kit.errors import DeadLetterNotFound, ModelUnavailable
from services.kit.keys import TenantKeys
from services.orchestrator.adapters.inmemory_dead_letters import InMemoryDeadLetters
from services.orchestrator.adapters.redis_dead_letters import RedisDeadLetters
from services.orchestrator.domain.run import DeadLetter, Record

USER = "orchestrator"
KEPT, KEPT_S = 20, 1.0
RECORD = Record("h\u00e9llo\n{}", "aura", 3, ("admin", "b"), queue="COMPLEX", priority=9, callback_url="https://a.b/c")


@pytest.fixture(params=["memory", "one", "cluster"])
def letters(request, one, cluster):
    if request.param == "memory":
        return InMemoryDeadLetters(KEPT, KEPT_S)
    return RedisDeadLetters(one if request.param == "one" else cluster, KEPT, KEPT_S)


@pytest.fixture
def alice():
    return Principal(f"{{t/}}{uuid.uuid4().hex}", "alice")


def letter(run_id, time_ms=0, attempts=3):
    now = time.time_ns() // 1_000_000
    return DeadLetter(run_id, "bob\u0142", RECORD, attempts, ModelUnavailable("the model is away"), time_ms or now)


async def ids(letters, principal, after=None, limit=100):
    return [each.run_id for each in await letters.page(principal, after, limit)]


async def test_a_tenant_without_letters_has_none(letters, alice):
    assert await letters.page(alice, None, 10) == []
    with pytest.raises(DeadLetterNotFound):
        await letters.get(alice, "s.1")
    await letters.remove(alice, "s.1")


async def test_a_letter_is_what_was_put(letters, alice):
    put = letter("s.1")
    await letters.put(alice, put)
    for found in (await letters.get(alice, "s.1"), *await letters.page(alice, None, 10)):
        assert (type(found.error), found.error.message) == (ModelUnavailable, "the model is away")
        facts = (found.run_id, found.user, found.record, found.attempts, found.time_ms)
        assert facts == (put.run_id, put.user, put.record, put.attempts, put.time_ms)


async def test_a_second_letter_of_a_run_changes_nothing(letters, alice):
    await letters.put(alice, letter("s.1", attempts=3))
    await letters.put(alice, letter("s.1", attempts=4))
    assert [each.attempts for each in await letters.page(alice, None, 10)] == [3]


async def test_letters_belong_to_their_tenant_whoever_of_it_asks(letters, alice):
    await letters.put(alice, letter("s.1"))
    assert await ids(letters, Principal(alice.tenant, "carol")) == ["s.1"]
    other = Principal(alice.tenant + "x", "alice")
    assert await ids(letters, other) == []
    await letters.remove(other, "s.1")
    assert await ids(letters, alice) == ["s.1"]


async def test_pages_show_each_letter_once_the_newest_first_also_those_of_one_moment(letters, alice):
    now = time.time_ns() // 1_000_000
    times = {f"s.{n}": now - n // 4 for n in range(12)}
    for run_id, time_ms in times.items():
        await letters.put(alice, letter(run_id, time_ms))
    wanted = sorted(times, key=lambda run_id: (times[run_id], run_id), reverse=True)
    for size in (1, 3, 5, 12):
        found, after = [], None
        while page := await letters.page(alice, after, size):
            assert len(page) <= size
            found += [each.run_id for each in page]
            after = (page[-1].time_ms, page[-1].run_id)
        assert found == wanted


async def test_a_letter_that_was_removed_is_gone(letters, alice):
    await letters.put(alice, letter("s.1"))
    await letters.put(alice, letter("s.2"))
    await letters.remove(alice, "s.1")
    assert await ids(letters, alice) == ["s.2"]
    with pytest.raises(DeadLetterNotFound):
        await letters.get(alice, "s.1")


async def test_the_oldest_give_way_when_there_are_too_many(letters, alice):
    now = time.time_ns() // 1_000_000
    for n in range(KEPT + 5):
        await letters.put(alice, letter(f"s.{n:02}", now - 100 + n))
    assert await ids(letters, alice) == [f"s.{n:02}" for n in range(KEPT + 4, 4, -1)]
    with pytest.raises(DeadLetterNotFound):
        await letters.get(alice, "s.04")


async def test_a_letter_is_forgotten_after_its_time(letters, alice):
    await letters.put(alice, letter("s.1"))
    await asyncio.sleep(0.6)
    await letters.put(alice, letter("s.2"))
    await asyncio.sleep(0.5)
    assert await ids(letters, alice) == ["s.2"]
    await letters.put(alice, letter("s.3"))
    with pytest.raises(DeadLetterNotFound):
        await letters.get(alice, "s.1")


async def test_letters_of_a_tenant_that_has_no_more_expire(one, alice):
    letters = RedisDeadLetters(one, KEPT, KEPT_S)
    await letters.put(alice, letter("s.1"))
    for key in TenantKeys(alice).dead_letters:
        assert 0 < await one.execute("PTTL", key) <= KEPT_S * 1000
