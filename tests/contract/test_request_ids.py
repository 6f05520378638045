"""A request id of a user is of one run: in another session, or with another body, it is refused."""

import asyncio
import uuid
from collections.abc import Callable

import pytest

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.errors import BudgetExhausted, RequestIdReused, SessionBusy
from services.kit.redis import Redis
from services.memory.adapters.inmemory import InMemorySessionStore
from services.memory.adapters.redis import RedisSessionStore
from services.memory.adapters.redis_accounts import RedisAccounts
from services.memory.adapters.redis_budgets import RedisBudgets
from services.memory.domain import Budget, Concurrency, Ending, Lifetimes, Order, Request, Reserving, Scope, Turn, Whose
from services.memory.ports import BudgetStore, SessionStore

USER = "memory"
LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=6, request_ms=60_000)
RESERVING = Reserving(Amounts(100, 1000, 10, 60_000), lifetime_ms=60_000, unused_ms=50_000)
NOW, LATER = Order(b"asked"), Order(b"asked", defer=True)
R1 = Request("r1", b"d")
Stores = tuple[SessionStore, BudgetStore]


@pytest.fixture(params=["memory", "one", "cluster"])
def open_stores(request: pytest.FixtureRequest, one: Redis, cluster: Redis) -> Callable[[], Stores]:
    if request.param == "memory":
        sessions = InMemorySessionStore(LIFETIMES, reserving=RESERVING)
        return lambda: (sessions, sessions.budgets)
    redis = one if request.param == "one" else cluster
    budgets = RedisBudgets(redis, RESERVING)
    return lambda: (RedisSessionStore(redis, LIFETIMES, RedisAccounts(redis, budgets)), budgets)


@pytest.fixture
async def store(open_stores: Callable[[], Stores]) -> SessionStore:
    return open_stores()[0]


@pytest.fixture
def alice() -> Principal:
    return Principal(f"tenant-{uuid.uuid4().hex}", "alice")


async def make(store: SessionStore, principal: Principal) -> str:
    return (await store.create(principal, uuid.uuid4().hex, "aura", None)).session_id


async def begin(
    store: SessionStore, principal: Principal, session: str, order: Order = NOW, request: Request = R1
) -> Turn:
    return await store.begin(principal, session, request, 10_000, 5, order)


async def end(store: SessionStore, principal: Principal, session: str, turn: Turn) -> None:
    await store.end(principal, session, Ending(turn.run, turn.token, 1, [b"over"]))


@pytest.mark.parametrize("second", [NOW, LATER], ids=["now", "later"])
@pytest.mark.parametrize("first", [NOW, LATER], ids=["now", "later"])
async def test_in_another_session_it_is_refused_and_leaves_nothing_there(
    store: SessionStore, alice: Principal, first: Order, second: Order
) -> None:
    session, other = await make(store, alice), await make(store, alice)
    begun = await begin(store, alice, session, first)
    for _ in range(2):
        with pytest.raises(RequestIdReused):
            await begin(store, alice, other, second)
    assert (await begin(store, alice, session, first)).run == begun.run
    await store.delete(alice, other)  # which is refused while a run has not ended


async def test_of_two_sessions_that_use_it_at_once_one_has_the_run(store: SessionStore, alice: Principal) -> None:
    sessions = [await make(store, alice) for _ in range(8)]
    found = await asyncio.gather(*(begin(store, alice, each) for each in sessions), return_exceptions=True)
    assert sum(isinstance(each, Turn) for each in found) == 1
    assert sum(isinstance(each, RequestIdReused) for each in found) == 7


async def test_another_user_and_another_tenant_have_ids_of_their_own(store: SessionStore, alice: Principal) -> None:
    for who in (alice, Principal(alice.tenant, "bob"), Principal(alice.tenant + "x", "alice")):
        assert not (await begin(store, who, await make(store, who))).attached


async def test_in_a_busy_session_it_is_refused_and_not_put_into_the_line(store: SessionStore, alice: Principal) -> None:
    session, busy = await make(store, alice), await make(store, alice)
    await begin(store, alice, session)
    turn = await begin(store, alice, busy, request=Request("r2", b"d"))
    with pytest.raises(RequestIdReused):
        await begin(store, alice, busy)
    await end(store, alice, busy, turn)
    await store.delete(alice, busy)


async def test_one_whose_run_was_refused_is_free_at_once(open_stores: Callable[[], Stores], alice: Principal) -> None:
    store, budgets = open_stores()
    busy, session = await make(store, alice), await make(store, alice)
    turn = await begin(store, alice, busy, request=Request("r2", b"d"))
    with pytest.raises(SessionBusy):
        await begin(store, alice, busy, Order(b"asked", Concurrency.REJECT))
    await budgets.set(alice, Whose(Scope.USER, "alice"), Budget(Amounts(tokens=0)))
    with pytest.raises(BudgetExhausted):
        await begin(store, alice, session)
    await budgets.set(alice, Whose(Scope.USER, "alice"), None)
    assert not (await begin(store, alice, await make(store, alice))).attached
    await end(store, alice, busy, turn)


async def test_one_whose_session_was_deleted_is_free(store: SessionStore, alice: Principal) -> None:
    session, other = await make(store, alice), await make(store, alice)
    await end(store, alice, session, await begin(store, alice, session))
    await store.delete(alice, session)
    assert not (await begin(store, alice, other)).attached


async def test_a_refused_repeat_sets_nothing_apart(open_stores: Callable[[], Stores], alice: Principal) -> None:
    store, budgets = open_stores()
    whose = Whose(Scope.USER, "alice")
    await budgets.set(alice, whose, Budget(Amounts(tokens=150)))
    session, other = await make(store, alice), await make(store, alice)
    turn = await begin(store, alice, session)
    with pytest.raises(RequestIdReused):
        await begin(store, alice, other)
    assert (await budgets.get(alice, whose)).reserved.tokens == 100
    await end(store, alice, session, turn)
    assert (await budgets.get(alice, whose)).reserved.tokens == 0
