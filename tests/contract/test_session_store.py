"""SessionStore: one list of behaviours for the fake, one Redis and a cluster of three primaries."""

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from myriad.common.v1 import common_pb2
from services.kit.call import Principal
from services.kit.errors import (
    Aborted,
    LeaseLost,
    LineFull,
    RequestIdReused,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
)
from services.kit.redis import Redis
from services.memory.adapters.inmemory import InMemorySessionStore
from services.memory.adapters.redis import RedisSessionStore
from services.memory.codec import read_message
from services.memory.domain import Concurrency, Cursor, Ending, Lifetimes, Message, Next, Order, Request, Role, Session
from services.memory.ports import SessionStore
from tests.support.valkey import restartable_valkey

USER = "memory"
LONG = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=6)
SHORT = Lifetimes(session_ms=600, log_ms=600, history_cap=6, request_ms=600)
LEASE_MS = 10_000
Open = Callable[[Lifetimes], SessionStore]


@pytest.fixture(params=["memory", "one", "cluster"])
def open_store(request: pytest.FixtureRequest, one: Redis, cluster: Redis) -> Open:
    if request.param == "memory":
        return InMemorySessionStore
    redis = one if request.param == "one" else cluster
    return lambda lifetimes: RedisSessionStore(redis, lifetimes)


@pytest.fixture
def store(open_store: Open) -> SessionStore:
    return open_store(LONG)


@pytest.fixture
def alice() -> Principal:
    return Principal(f"tenant-{uuid.uuid4().hex}", "alice")


def unique() -> str:
    return uuid.uuid4().hex


def message(text: str, role: Role = Role.USER) -> Message:
    return read_message(common_pb2.Message(role=int(role), content=text))  # type: ignore[arg-type]


async def make(store: SessionStore, principal: Principal, request: Request | None = None) -> Session:
    return await store.create(principal, unique(), "aura", request)


async def begin(store: SessionStore, principal: Principal, session: Session, request: Request | None = None) -> Ending:
    """Begins a turn; how it would end without a message."""
    turn = await store.begin(principal, session.session_id, request, LEASE_MS, 20)
    return Ending(turn.run, turn.token, 1, [b"over"])


def saying(ending: Ending, *texts: str) -> Ending:
    messages = [message(text) for text in texts]
    return Ending(ending.run, ending.token, ending.first_sequence, ending.last_events, messages)


async def test_what_is_not_there_is_not_found(store: SessionStore, alice: Principal) -> None:
    with pytest.raises(SessionNotFound):
        await store.get(alice, "none")
    with pytest.raises(SessionNotFound):
        await store.history(alice, "none", 5)
    with pytest.raises(SessionNotFound):
        await store.begin(alice, "none", None, LEASE_MS, 5)
    with pytest.raises(SessionNotFound):
        await store.end(alice, "none", Ending(1, 1, 1, [b"x"]))
    with pytest.raises(SessionNotFound):
        await store.delete(alice, "none")
    assert (await store.page(alice, None, 5)).sessions == []


@pytest.mark.parametrize("other", [Principal("", "mallory"), Principal("other", "alice"), Principal("other", "")])
async def test_anothers_session_is_not_found_and_untouched(
    store: SessionStore, alice: Principal, other: Principal
) -> None:
    mallory = Principal(f"{alice.tenant}{other.tenant}", other.user or "mallory")
    session = await make(store, alice)
    ending = await begin(store, alice, session)
    for attempt in (
        store.get(mallory, session.session_id),
        store.history(mallory, session.session_id, 5),
        store.begin(mallory, session.session_id, None, LEASE_MS, 5),
        store.end(mallory, session.session_id, ending),
        store.delete(mallory, session.session_id),
    ):
        with pytest.raises(SessionNotFound) as refused:
            await attempt
        assert (refused.value.message, refused.value.retry_after) == ("no such session", None)
    assert (await store.page(mallory, None, 5)).sessions == []
    assert (await store.get(alice, session.session_id)).run_count == 1
    assert len((await store.page(alice, None, 5)).sessions) == 1


async def test_a_new_session_is_read_back_as_it_was_made(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    assert session == await store.get(alice, session.session_id)
    assert (session.agent, session.run_count) == ("aura", 0)
    assert session.created_ms == session.updated_ms
    assert abs(session.expires_ms - session.created_ms - LONG.session_ms) < 1000
    assert await store.history(alice, session.session_id, 5) == []


@pytest.mark.parametrize(
    "name", ["a:b", "{x}", "}{", "*", "a\nb", "%", "a/b", "ünï😀", "x" * 5000, "x" * 4999 + "y", " "]
)
async def test_any_name_of_tenant_and_user_works(store: SessionStore, name: str) -> None:
    principal = Principal(f"{name}{unique()}", name)
    session = await make(store, principal, Request("r", b"d"))
    await store.end(principal, session.session_id, saying(await begin(store, principal, session), "hello"))
    assert [each.session_id for each in (await store.page(principal, None, 5)).sessions] == [session.session_id]
    with pytest.raises(SessionNotFound):
        await store.get(Principal(principal.tenant, name + "x"), session.session_id)


async def test_a_repeated_request_makes_one_session(open_store: Open, alice: Principal) -> None:
    store = open_store(LONG)
    request = Request("r1", b"\x00\n:digest")
    made = await asyncio.gather(*(make(store, alice, request) for _ in range(10)))
    assert len({session.session_id for session in made}) == 1
    assert len((await store.page(alice, None, 5)).sessions) == 1
    with pytest.raises(RequestIdReused):
        await make(store, alice, Request("r1", b"other"))
    assert (await make(store, alice, Request("r2", request.digest))).session_id != made[0].session_id
    bob = Principal(alice.tenant, "bob")
    assert (await make(store, bob, request)).session_id != made[0].session_id


async def test_a_request_outlives_a_restart(tmp_path: Path, alice: Principal) -> None:
    request, made = Request("r1", b"d"), []
    async with restartable_valkey(tmp_path) as server:
        for _ in range(2):
            await server.start()
            redis = Redis(server.url)
            made.append(await make(RedisSessionStore(redis, LONG), alice, request))
            await redis.close()
            await server.stop()
    assert made[0].session_id == made[1].session_id


async def test_a_request_is_forgotten_in_time_and_with_its_session(open_store: Open, alice: Principal) -> None:
    store, request = open_store(LONG), Request("r1", b"d")
    first = await make(store, alice, request)
    await store.delete(alice, first.session_id)
    assert (await make(store, alice, request)).session_id != first.session_id
    store, request = open_store(SHORT), Request("r2", b"d")
    first = await make(store, alice, request)
    await asyncio.sleep(0.65)
    assert (await make(store, alice, Request("r2", b"other"))).session_id != first.session_id


async def test_the_latest_used_session_is_listed_first(store: SessionStore, alice: Principal) -> None:
    sessions = []
    for _ in range(3):
        sessions.append(await make(store, alice))
        await asyncio.sleep(0.005)
    ids = [session.session_id for session in sessions]
    assert [each.session_id for each in (await store.page(alice, None, 5)).sessions] == ids[::-1]
    await begin(store, alice, sessions[0])
    page = await store.page(alice, None, 5)
    assert [each.session_id for each in page.sessions] == [ids[0], ids[2], ids[1]]
    assert page.sessions[0].run_count == 1
    assert page.sessions[0].updated_ms > page.sessions[0].created_ms


async def test_pages_show_each_session_once(store: SessionStore, alice: Principal) -> None:
    made = await asyncio.gather(*(make(store, alice) for _ in range(11)))
    shown: list[str] = []
    after: Cursor | None = None
    sizes = []
    while True:
        page = await store.page(alice, after, 3)
        shown += [session.session_id for session in page.sessions]
        sizes.append(len(page.sessions))
        if page.next is None:
            break
        after = page.next
    assert sizes == [3, 3, 3, 2]
    assert sorted(shown) == sorted(session.session_id for session in made)


async def test_a_page_is_filled_past_what_is_gone(store: SessionStore, alice: Principal) -> None:
    made = [await make(store, alice) for _ in range(8)]
    for session in made[1:7]:
        await store.delete(alice, session.session_id)
    page = await store.page(alice, None, 2)
    assert {session.session_id for session in page.sessions} == {made[0].session_id, made[7].session_id}
    assert page.next is None


async def test_a_session_expires_after_its_last_turn(open_store: Open, alice: Principal) -> None:
    store = open_store(SHORT)
    idle, used = await make(store, alice), await make(store, alice)
    ending = saying(await begin(store, alice, used), "hello")
    await asyncio.sleep(0.3)
    await store.end(alice, used.session_id, ending)
    await asyncio.sleep(0.35)
    with pytest.raises(SessionNotFound):
        await store.get(alice, idle.session_id)
    assert [each.session_id for each in (await store.page(alice, None, 5)).sessions] == [used.session_id]
    assert await store.history(alice, used.session_id, 5) == [message("hello")]
    await asyncio.sleep(0.35)
    with pytest.raises(SessionNotFound):
        await store.get(alice, used.session_id)
    with pytest.raises(SessionNotFound):
        await store.history(alice, used.session_id, 5)


async def test_a_turn_is_numbered_and_remembers(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    await store.end(alice, session.session_id, saying(await begin(store, alice, session), "one", "two"))
    turn = await store.begin(alice, session.session_id, None, LEASE_MS, 20)
    assert (turn.run, turn.attached, turn.agent) == (2, False, "aura")
    assert turn.history == [message("one"), message("two")]
    assert (await store.get(alice, session.session_id)).run_count == 2


async def test_the_history_keeps_the_newest_messages_in_order(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    for i in range(5):
        ending = await begin(store, alice, session)
        await store.end(alice, session.session_id, saying(ending, f"{i}a", f"{i}b"))
    newest = [message(text) for text in ("2a", "2b", "3a", "3b", "4a", "4b")]
    assert await store.history(alice, session.session_id, 200) == newest
    assert await store.history(alice, session.session_id, 3) == newest[3:]
    assert (await store.begin(alice, session.session_id, None, LEASE_MS, 2)).history == newest[4:]


async def test_one_turn_at_a_time(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    tries = (store.begin(alice, session.session_id, None, LEASE_MS, 5) for _ in range(20))
    results = await asyncio.gather(*tries, return_exceptions=True)
    refused = [result for result in results if isinstance(result, SessionBusy)]
    assert len(refused) == 19
    assert all(0 < (error.retry_after or 0) <= LEASE_MS / 1000 for error in refused)
    assert (await store.get(alice, session.session_id)).run_count == 1
    other = await make(store, alice)
    await begin(store, alice, other)


async def test_a_lease_ends_by_itself_and_the_next_token_is_higher(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    first = await store.begin(alice, session.session_id, None, 50, 5)
    await asyncio.sleep(0.08)
    second = await begin(store, alice, session)
    assert (second.run, second.token > first.token) == (2, True)
    stale = Ending(first.run, first.token, 1, [b"late"], [message("late")])
    with pytest.raises(LeaseLost):
        await store.end(alice, session.session_id, stale)
    for run, token in ((2, first.token), (1, second.token), (3, second.token), (2, second.token + 1)):
        with pytest.raises(LeaseLost):
            await store.end(alice, session.session_id, Ending(run, token, 1, [b"x"], [message("x")]))
    assert await store.history(alice, session.session_id, 5) == []
    with pytest.raises(SessionBusy):
        await begin(store, alice, session)


async def test_a_late_end_counts_while_nobody_else_began(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    turn = await store.begin(alice, session.session_id, None, 50, 5)
    await asyncio.sleep(0.08)
    await store.end(alice, session.session_id, Ending(turn.run, turn.token, 1, [b"over"], [message("kept")]))
    assert await store.history(alice, session.session_id, 5) == [message("kept")]


async def test_a_repeated_turn_attaches_to_its_run(store: SessionStore, alice: Principal) -> None:
    session, request = await make(store, alice), Request("r1", b"\x00\n:\xff")
    ending = await begin(store, alice, session, request)
    for _ in range(2):
        turn = await store.begin(alice, session.session_id, request, LEASE_MS, 5)
        assert (turn.run, turn.attached, turn.token) == (ending.run, True, 0)
    with pytest.raises(RequestIdReused):
        await begin(store, alice, session, Request("r1", b"\x00\n:"))
    with pytest.raises(SessionBusy):
        await begin(store, alice, session, Request("r2", request.digest))
    await store.end(alice, session.session_id, saying(ending, "hello"))
    await begin(store, alice, session, Request("r2", request.digest))
    assert (await store.begin(alice, session.session_id, request, LEASE_MS, 5)).run == ending.run
    other = await make(store, alice)
    with pytest.raises(RequestIdReused):
        await begin(store, alice, other, request)


async def test_a_turns_request_is_forgotten_in_time(open_store: Open, alice: Principal) -> None:
    lifetimes = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=6, request_ms=800)
    store, request = open_store(lifetimes), Request("r1", b"d")
    session = await make(store, alice)
    await store.end(alice, session.session_id, await begin(store, alice, session, request))
    await asyncio.sleep(0.45)
    await store.end(alice, session.session_id, await begin(store, alice, session, Request("r2", b"d")))
    await asyncio.sleep(0.4)
    assert (await store.begin(alice, session.session_id, Request("r2", b"d"), LEASE_MS, 5)).attached
    assert (await store.begin(alice, session.session_id, Request("r1", b"other"), LEASE_MS, 5)).run == 3


async def test_a_repeated_end_changes_nothing(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    ending = saying(await begin(store, alice, session), "hello")
    await asyncio.gather(*(store.end(alice, session.session_id, ending) for _ in range(5)))
    assert await store.history(alice, session.session_id, 5) == [message("hello")]
    await begin(store, alice, session)
    await store.end(alice, session.session_id, ending)
    assert await store.history(alice, session.session_id, 5) == [message("hello")]
    with pytest.raises(SessionBusy):
        await begin(store, alice, session)


async def test_a_run_ends_once(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    ending = await begin(store, alice, session)
    await store.end(alice, session.session_id, ending)
    for other in (
        Ending(ending.run, ending.token, 1, [b"otherwise"], [message("x")]),
        Ending(ending.run, ending.token, 2, [b"over"], [message("x")]),
    ):
        with pytest.raises((LeaseLost, Aborted)):
            await store.end(alice, session.session_id, other)
    assert await store.history(alice, session.session_id, 5) == []


async def test_an_abandoned_turn_leaves_no_trace_and_frees_the_session(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    await store.end(alice, session.session_id, await begin(store, alice, session))
    turn = await store.begin(alice, session.session_id, None, LEASE_MS, 5)
    assert (turn.run, list(turn.history)) == (2, [])


async def test_a_deleted_session_is_gone_unless_a_turn_holds_it(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    ending = saying(await begin(store, alice, session), "hello")
    with pytest.raises(SessionBusy) as refused:
        await store.delete(alice, session.session_id)
    assert refused.value.retry_after
    await store.end(alice, session.session_id, ending)
    await store.delete(alice, session.session_id)
    with pytest.raises(SessionNotFound):
        await store.delete(alice, session.session_id)
    with pytest.raises(SessionNotFound):
        await store.end(alice, session.session_id, ending)
    assert (await store.page(alice, None, 5)).sessions == []


async def test_a_run_with_a_record_waits_for_an_owner_when_its_own_is_gone(
    store: SessionStore, alice: Principal
) -> None:
    session_id = (await make(store, alice)).session_id
    turn = await store.begin(alice, session_id, None, 400, 5, Order(b"asked"))
    with pytest.raises(SessionBusy):
        await store.resume(alice, session_id, LEASE_MS, 5)
    await asyncio.sleep(0.45)
    with pytest.raises(SessionBusy):
        await store.begin(alice, session_id, None, LEASE_MS, 5)
    resumed = await store.resume(alice, session_id, LEASE_MS, 5)
    assert (resumed.turn.run, resumed.turn.agent, resumed.record) == (turn.run, "aura", b"asked")
    assert (resumed.checkpoint, resumed.attempts, resumed.turn.token > turn.token) == (b"", 1, True)
    with pytest.raises(LeaseLost):
        await store.end(alice, session_id, Ending(turn.run, turn.token, 1, [b"late"]))
    await store.end(alice, session_id, Ending(turn.run, resumed.turn.token, 1, [b"end"]))
    with pytest.raises(RunNotFound):
        await store.resume(alice, session_id, LEASE_MS, 5)
    assert (await store.begin(alice, session_id, None, LEASE_MS, 5)).run == turn.run + 1


async def test_nobody_takes_over_what_is_anothers_or_never_was(store: SessionStore, alice: Principal) -> None:
    session_id = (await make(store, alice)).session_id
    with pytest.raises(RunNotFound):
        await store.resume(alice, session_id, LEASE_MS, 5)
    await store.begin(alice, session_id, None, 1, 5, Order(b"asked"))
    await asyncio.sleep(0.02)
    with pytest.raises(SessionNotFound):
        await store.resume(Principal(alice.tenant, "mallory"), session_id, LEASE_MS, 5)


async def test_a_session_with_a_run_that_has_not_ended_is_not_deleted(store: SessionStore, alice: Principal) -> None:
    session_id = (await make(store, alice)).session_id
    turn = await store.begin(alice, session_id, None, 1, 5, Order(b"asked"))
    waits = await store.begin(alice, session_id, None, LEASE_MS, 5, Order(b"next"))
    await asyncio.sleep(0.02)
    for _ in range(2):
        with pytest.raises(SessionBusy):
            await store.delete(alice, session_id)
        resumed = await store.resume(alice, session_id, LEASE_MS, 5)
        await store.end(alice, session_id, Ending(resumed.turn.run, resumed.turn.token, 1, [b"end"]))
    assert (turn.run, waits.run) == (1, 2)
    await store.delete(alice, session_id)
    with pytest.raises(SessionNotFound):
        await store.resume(alice, session_id, LEASE_MS, 5)


async def test_a_run_waits_in_the_line_and_comes_when_the_one_before_has_ended(
    store: SessionStore, alice: Principal
) -> None:
    session_id = (await make(store, alice)).session_id
    ending = await begin(store, alice, await store.get(alice, session_id))
    with pytest.raises(SessionBusy):
        await store.begin(alice, session_id, None, LEASE_MS, 5, Order(b"now or never", Concurrency.REJECT))
    with pytest.raises(SessionBusy):
        await store.begin(alice, session_id, None, LEASE_MS, 5, Order())
    second = await store.begin(alice, session_id, Request("r2", b"d"), LEASE_MS, 5, Order(b"second"))
    third = await store.begin(alice, session_id, None, LEASE_MS, 5, Order(b"third", defer=True))
    assert [(each.queued, each.token, each.position) for each in (second, third)] == [(True, 0, 1), (True, 0, 2)]
    assert (await store.begin(alice, session_id, Request("r2", b"d"), LEASE_MS, 5, Order(b"second"))).attached
    assert await store.end(alice, session_id, ending) == Next(second.run, b"second")
    assert await store.end(alice, session_id, ending) == Next(second.run, b"second")
    with pytest.raises(SessionBusy) as behind:
        await store.resume(alice, session_id, LEASE_MS, 5, third.run)
    assert behind.value.retry_after is None  # whoever ends the one before it goes on with it
    begun = await store.resume(alice, session_id, LEASE_MS, 5)
    assert (begun.turn.run, begun.record, begun.attempts) == (second.run, b"second", 0)
    with pytest.raises(RunNotFound):  # it is over, though its session is busy: who looks for it need not come again
        await store.resume(alice, session_id, LEASE_MS, 5, ending.run)
    last = Ending(second.run, begun.turn.token, 1, [b"end"])
    assert await store.end(alice, session_id, last) == Next(third.run, b"third")


async def test_a_run_that_is_due_later_holds_up_nobody(store: SessionStore, alice: Principal) -> None:
    session_id = (await make(store, alice)).session_id
    due_ms = int(time.time() * 1000) + 600
    later = await store.begin(alice, session_id, None, LEASE_MS, 5, Order(b"later", defer=True, due_ms=due_ms))
    assert later.position == 0
    for held in (False, True):
        with pytest.raises(SessionBusy) as early:
            await store.resume(alice, session_id, LEASE_MS, 5, later.run)
        assert 0 < (early.value.retry_after or 0) <= 0.6
        if not held:
            ending = await begin(store, alice, await store.get(alice, session_id))
    assert ending.token > 0
    assert await store.end(alice, session_id, ending) is None
    await asyncio.sleep(0.65)
    assert (await store.resume(alice, session_id, LEASE_MS, 5)).turn.run == later.run


async def test_what_was_said_is_kept_until_a_run_that_is_due_later_has_begun(
    open_store: Open, alice: Principal
) -> None:
    store = open_store(SHORT)
    session = await make(store, alice)
    await store.end(alice, session.session_id, saying(await begin(store, alice, session), "hello"))
    due_ms = int(time.time() * 1000) + 700
    await store.begin(alice, session.session_id, None, LEASE_MS, 5, Order(b"later", defer=True, due_ms=due_ms))
    await store.end(alice, session.session_id, saying(await begin(store, alice, session), "and now?"))
    await asyncio.sleep(0.75)
    resumed = await store.resume(alice, session.session_id, LEASE_MS, 5)
    assert list(resumed.turn.history) == [message("hello"), message("and now?")]


async def test_a_full_line_takes_no_more(store: SessionStore, alice: Principal) -> None:
    session = await make(store, alice)
    await begin(store, alice, session)
    for _ in range(LONG.line_cap):
        await store.begin(alice, session.session_id, None, LEASE_MS, 5, Order(b"waits"))
    with pytest.raises(LineFull):
        await store.begin(alice, session.session_id, Request("r", b"d"), LEASE_MS, 5, Order(b"one too many"))
    assert (await store.get(alice, session.session_id)).run_count == LONG.line_cap + 1
