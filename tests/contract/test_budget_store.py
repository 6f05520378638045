"""BudgetStore: one list of behaviours for the fake, one Redis and a cluster of three primaries."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.errors import BudgetExhausted, LeaseLost, SessionNotFound
from services.kit.redis import Redis
from services.memory.adapters.inmemory import InMemorySessionStore
from services.memory.adapters.redis import RedisSessionStore
from services.memory.adapters.redis_accounts import RedisAccounts
from services.memory.adapters.redis_budgets import RedisBudgets
from services.memory.domain import Budget, Ending, Grant, Lifetimes, Order, Reserving, Scope, Turn, Whose
from services.memory.ports import BudgetStore, SessionStore

USER = "memory"
LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=6)
WANTED = Amounts(100, 1000, 10, 60_000)
LONG = Reserving(WANTED, lifetime_ms=60_000, unused_ms=60_000)
SHORT = Reserving(WANTED, lifetime_ms=400, unused_ms=60_000)
LEASE_MS = 10_000
TENANT = Whose(Scope.TENANT)
NOTHING = Amounts(0, 0, 0, 0)


@dataclass
class Stores:
    """Budgets, and the sessions whose turns spend of them."""

    budgets: BudgetStore
    sessions: SessionStore


Open = Callable[[Reserving], Stores]


@pytest.fixture(params=["memory", "one", "cluster"])
async def open_stores(request: pytest.FixtureRequest, one: Redis, cluster: Redis) -> AsyncIterator[Open]:
    opened: list[RedisAccounts] = []

    def open_them(reserving: Reserving) -> Stores:
        if request.param == "memory":
            sessions = InMemorySessionStore(LIFETIMES, reserving=reserving)
            return Stores(sessions.budgets, sessions)
        redis = one if request.param == "one" else cluster
        budgets = RedisBudgets(redis, reserving)
        opened.append(RedisAccounts(redis, budgets))
        return Stores(budgets, RedisSessionStore(redis, LIFETIMES, opened[-1]))

    yield open_them
    for accounts in opened:
        await accounts.close()


@pytest.fixture
def stores(open_stores: Open) -> Stores:
    return open_stores(LONG)


@pytest.fixture
def alice() -> Principal:
    return Principal(f"tenant-{uuid.uuid4().hex}", "alice")


def mine(principal: Principal) -> Whose:
    return Whose(Scope.USER, principal.user)


def unique() -> str:
    return uuid.uuid4().hex


async def reserve(stores: Stores, principal: Principal, *, strict: bool = True) -> tuple[str, Amounts]:
    """A reservation and what was granted."""
    name = unique()
    return name, (await stores.budgets.reserve(principal, name, strict=strict)).amounts


async def begin(stores: Stores, principal: Principal, session_id: str, order: Order | None = None) -> Turn:
    return await stores.sessions.begin(principal, session_id, None, LEASE_MS, 5, order or Order(b"asked"))


async def end(stores: Stores, principal: Principal, session_id: str, turn: Turn, spent: Amounts) -> None:
    await stores.sessions.end(principal, session_id, Ending(turn.run, turn.token, 1, [b"over"], spent=spent))


async def make(stores: Stores, principal: Principal) -> str:
    return (await stores.sessions.create(principal, unique(), "aura", None)).session_id


async def test_nothing_is_limited_at_first_and_what_is_spent_is_counted_all_the_same(
    stores: Stores, alice: Principal
) -> None:
    for whose in (TENANT, mine(alice)):
        state = await stores.budgets.get(alice, whose)
        assert (state.budget, state.spent, state.reserved, state.remaining) == (None, NOTHING, NOTHING, Amounts())
    name, granted = await reserve(stores, alice)
    assert granted == Amounts()
    await stores.budgets.settle(alice, name, Amounts(tokens=7, milliseconds=3))
    for whose in (TENANT, mine(alice)):
        assert (await stores.budgets.get(alice, whose)).spent == Amounts(7, 0, 0, 3)


async def test_a_budget_is_read_back_as_it_was_written(stores: Stores, alice: Principal) -> None:
    budget = Budget(Amounts(tokens=50, tool_calls=0), 60_000)
    written = await stores.budgets.set(alice, mine(alice), budget)
    assert written == await stores.budgets.get(alice, mine(alice))
    assert (written.budget, written.remaining, written.renews_ms) == (budget, Amounts(tokens=50, tool_calls=0), 0)
    assert (await stores.budgets.set(alice, mine(alice), None)).budget is None


async def test_a_budget_is_its_users_and_its_tenants_alone(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=0)))
    bob = Principal(alice.tenant, "bob")
    assert (await reserve(stores, bob))[1] == Amounts()
    await stores.budgets.set(alice, TENANT, Budget(Amounts(tokens=0)))
    with pytest.raises(BudgetExhausted):
        await reserve(stores, bob)
    assert (await reserve(stores, Principal(alice.tenant + "x", "alice")))[1] == Amounts()


async def test_a_run_gets_what_it_wants_or_what_is_left(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=130)))
    assert (await reserve(stores, alice))[1] == Amounts(tokens=100)
    assert (await reserve(stores, alice))[1] == Amounts(tokens=30)
    state = await stores.budgets.get(alice, mine(alice))
    assert (state.reserved.tokens, state.remaining.tokens) == (130, 0)


async def test_of_two_budgets_the_least_counts_amount_by_amount(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=30, tool_calls=9)))
    await stores.budgets.set(alice, TENANT, Budget(Amounts(tokens=40, tool_calls=4, cost_micros=7)))
    assert (await reserve(stores, alice))[1] == Amounts(30, 7, 4, None)


async def test_a_budget_with_nothing_left_refuses_and_says_when_there_is_more(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=10), 90_000))
    name, _ = await reserve(stores, alice)
    with pytest.raises(BudgetExhausted) as held:
        await reserve(stores, alice)
    assert held.value.retry_after == 1.0  # the other run may give some of it back
    await stores.budgets.settle(alice, name, Amounts(tokens=10))
    with pytest.raises(BudgetExhausted) as gone:
        await reserve(stores, alice)
    assert 80 < (gone.value.retry_after or 0) <= 90
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=10)))
    with pytest.raises(BudgetExhausted) as for_ever:
        await reserve(stores, alice)
    assert for_ever.value.retry_after is None


async def test_a_refused_reservation_holds_nothing_in_either_budget(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=50)))
    await stores.budgets.set(alice, TENANT, Budget(Amounts(tool_calls=0)))
    with pytest.raises(BudgetExhausted):
        await reserve(stores, alice)
    assert (await stores.budgets.get(alice, mine(alice))).remaining == Amounts(tokens=50)


async def test_one_that_is_not_strict_is_granted_nothing_of_what_is_gone(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=0, tool_calls=5)))
    assert (await reserve(stores, alice, strict=False))[1] == Amounts(tokens=0, tool_calls=5)


async def test_settling_counts_what_was_spent_and_gives_the_rest_back(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=150)))
    name, _ = await reserve(stores, alice)
    await stores.budgets.settle(alice, name, Amounts(40, 5, 2, 9))
    state = await stores.budgets.get(alice, mine(alice))
    assert (state.spent, state.reserved, state.remaining) == (Amounts(40, 5, 2, 9), NOTHING, Amounts(tokens=110))


async def test_settling_again_changes_nothing(stores: Stores, alice: Principal) -> None:
    for limit in (Amounts(), Amounts(tokens=150)):
        await stores.budgets.set(alice, mine(alice), Budget(limit))
        before = (await stores.budgets.get(alice, mine(alice))).spent.tokens or 0
        name, _ = await reserve(stores, alice)
        for _ in range(3):
            await stores.budgets.settle(alice, name, Amounts(tokens=40))
        await stores.budgets.settle(alice, unique(), Amounts(tokens=40))
        assert (await stores.budgets.get(alice, mine(alice))).spent.tokens == before + 40


async def test_a_limit_that_comes_or_goes_in_mid_run_leaves_nothing_set_apart(stores: Stores, alice: Principal) -> None:
    before, _ = await reserve(stores, alice)
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=150)))
    during, _ = await reserve(stores, alice)
    await stores.budgets.settle(alice, before, Amounts(tokens=1))
    await stores.budgets.set(alice, mine(alice), None)
    await stores.budgets.settle(alice, during, Amounts(tokens=2))
    state = await stores.budgets.get(alice, mine(alice))
    assert (state.spent.tokens, state.reserved) == (3, NOTHING)


async def test_what_was_spent_stays_spent_when_a_budget_is_written(stores: Stores, alice: Principal) -> None:
    name, _ = await reserve(stores, alice)
    await stores.budgets.settle(alice, name, Amounts(tokens=40))
    state = await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=30)))
    assert (state.spent.tokens, state.remaining.tokens) == (40, 0)


async def test_a_window_begins_with_the_first_use_and_its_end_renews_all(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=50), 600))
    await asyncio.sleep(0.65)
    name, _ = await reserve(stores, alice)
    state = await stores.budgets.get(alice, mine(alice))
    assert state.renews_ms > 0
    await stores.budgets.settle(alice, name, Amounts(tokens=50))
    with pytest.raises(BudgetExhausted):
        await reserve(stores, alice)
    await asyncio.sleep(0.65)
    state = await stores.budgets.get(alice, mine(alice))
    assert (state.spent, state.renews_ms) == (NOTHING, 0)
    assert (await reserve(stores, alice))[1] == Amounts(tokens=50)


async def test_a_window_of_another_length_keeps_its_beginning(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=50), 60_000))
    await reserve(stores, alice)
    one = await stores.budgets.get(alice, mine(alice))
    other = await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=50), 90_000))
    assert other.renews_ms == one.renews_ms + 30_000


async def test_what_was_never_settled_is_given_back_and_still_counted_once(open_stores: Open, alice: Principal) -> None:
    stores = open_stores(SHORT)
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=100)))
    name, _ = await reserve(stores, alice)
    with pytest.raises(BudgetExhausted):
        await reserve(stores, alice)
    await asyncio.sleep(0.45)
    assert (await stores.budgets.get(alice, mine(alice))).reserved == NOTHING
    for _ in range(2):
        await stores.budgets.settle(alice, name, Amounts(tokens=30))
    state = await stores.budgets.get(alice, mine(alice))
    assert (state.spent.tokens, state.remaining.tokens) == (30, 70)


async def test_a_reservation_takes_the_place_of_an_earlier_one(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=100)))
    first, _ = await reserve(stores, alice)
    second = unique()
    found = await stores.budgets.reserve(alice, second, strict=False, replaced=first)
    assert found.amounts == Amounts(tokens=100)
    await stores.budgets.settle(alice, first, Amounts(tokens=99))
    assert (await stores.budgets.get(alice, mine(alice))).spent == NOTHING


async def test_a_run_has_set_apart_what_it_wants_or_what_is_left_and_hears_what_is_left_in_all(
    stores: Stores, alice: Principal
) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=150, tool_calls=30)))
    await stores.budgets.set(alice, TENANT, Budget(Amounts(tokens=400, tool_calls=20)))
    session = await make(stores, alice)
    turn = await begin(stores, alice, session, Order(b"asked", wanted=Amounts(tokens=40)))
    assert (turn.granted, turn.left) == (Amounts(tokens=40, tool_calls=10), Amounts(tokens=150, tool_calls=20))
    busy = await make(stores, alice)
    other = await begin(stores, alice, busy, Order(b"asked", wanted=Amounts(tokens=500, tool_calls=0)))
    assert (other.granted, other.left) == (Amounts(tokens=110, tool_calls=0), Amounts(tokens=110, tool_calls=10))
    await end(stores, alice, busy, other, Amounts(tokens=5))
    await end(stores, alice, session, turn, Amounts(tokens=5))
    assert (await stores.budgets.get(alice, mine(alice))).spent.tokens == 10


async def test_a_run_that_is_to_wait_has_nothing_set_apart_and_hears_what_is_left(
    stores: Stores, alice: Principal
) -> None:
    later = Order(b"asked", defer=True)
    session, free = await make(stores, alice), await make(stores, alice)
    assert (await begin(stores, alice, free, later)).left == Amounts()
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=150, tool_calls=30)))
    await stores.budgets.set(alice, Whose(Scope.SESSION, session), Budget(Amounts(tool_calls=12)))
    busy = await make(stores, alice)
    await begin(stores, alice, busy, Order(b"asked", wanted=Amounts(tokens=40, tool_calls=3)))
    turn = await begin(stores, alice, session, later)
    assert (turn.queued, turn.granted, turn.left) == (True, Amounts(), Amounts(tokens=110, tool_calls=12))
    assert (await stores.budgets.get(alice, mine(alice))).reserved.tokens == 40


async def test_more_is_set_apart_for_a_run_as_far_as_there_is_more(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=150, tool_calls=30)))
    session, busy = await make(stores, alice), await make(stores, alice)
    await stores.budgets.set(alice, Whose(Scope.SESSION, session), Budget(Amounts(tool_calls=12)))
    turn = await begin(stores, alice, session, Order(b"asked", wanted=Amounts(tokens=40)))
    other = await begin(stores, alice, busy, Order(b"asked", wanted=Amounts(tokens=40)))

    async def extend(tokens: int, held: int = 0) -> Grant:
        wanted = Amounts(tokens=tokens, tool_calls=20)
        return await stores.sessions.extend(alice, session, turn.run, held or turn.token, wanted)

    for _ in range(2):
        assert (await extend(90)).amounts == Amounts(tokens=90, tool_calls=12)
        assert (await stores.budgets.get(alice, mine(alice))).reserved.tokens == 130
    found = await extend(200)
    assert (found.amounts, found.left) == (Amounts(tokens=110, tool_calls=12), Amounts(tokens=110, tool_calls=12))
    with pytest.raises(LeaseLost):
        await extend(90, turn.token + 1)
    with pytest.raises(SessionNotFound):
        await stores.sessions.extend(Principal(alice.tenant, "bob"), session, turn.run, turn.token, Amounts())
    await end(stores, alice, session, turn, Amounts(tokens=100))
    await end(stores, alice, busy, other, Amounts(tokens=7))
    state = await stores.budgets.get(alice, mine(alice))
    assert (state.spent.tokens, state.reserved.tokens) == (107, 0)
    with pytest.raises(LeaseLost):
        await extend(90)


async def test_twenty_that_reserve_at_once_get_no_more_than_there_is(stores: Stores, alice: Principal) -> None:
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=250)))
    found = await asyncio.gather(*(reserve(stores, alice) for _ in range(20)), return_exceptions=True)
    granted = [each[1].tokens or 0 for each in found if not isinstance(each, BaseException)]
    assert sorted(granted) == [50, 100, 100]
    assert all(isinstance(each, tuple | BudgetExhausted) for each in found)


async def test_a_session_that_is_not_there_or_anothers_has_no_budget(stores: Stores, alice: Principal) -> None:
    session = await make(stores, alice)
    for whose in (Whose(Scope.SESSION, "none"), Whose(Scope.SESSION, session, "mallory")):
        with pytest.raises(SessionNotFound):
            await stores.budgets.get(alice, whose)
        with pytest.raises(SessionNotFound):
            await stores.budgets.set(alice, whose, None)
    eve = Principal(alice.tenant + "x", "alice")
    with pytest.raises(SessionNotFound):
        await stores.budgets.get(eve, Whose(Scope.SESSION, session))
    for owner in ("", "alice"):
        assert (await stores.budgets.get(alice, Whose(Scope.SESSION, session, owner))).budget is None


async def test_a_turn_is_granted_the_least_of_all_three_budgets(stores: Stores, alice: Principal) -> None:
    session = await make(stores, alice)
    await stores.budgets.set(alice, Whose(Scope.SESSION, session), Budget(Amounts(tokens=20)))
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=50, tool_calls=3), 60_000))
    await stores.budgets.set(alice, TENANT, Budget(Amounts(cost_micros=9)))
    turn = await begin(stores, alice, session)
    assert turn.granted == Amounts(20, 9, 3, None)
    assert turn.renews_ms == 0  # the session's budget never renews


async def test_a_turn_of_a_limited_user_learns_when_there_is_more(stores: Stores, alice: Principal) -> None:
    session = await make(stores, alice)
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=50), 60_000))
    turn = await begin(stores, alice, session)
    assert turn.renews_ms == (await stores.budgets.get(alice, mine(alice))).renews_ms > 0


async def test_the_end_of_a_turn_counts_in_all_three_budgets_once(stores: Stores, alice: Principal) -> None:
    session = await make(stores, alice)
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=50)))
    turn = await begin(stores, alice, session)
    for _ in range(2):
        await end(stores, alice, session, turn, Amounts(12, 3, 1, 40))
    for whose in (TENANT, mine(alice), Whose(Scope.SESSION, session)):
        state = await stores.budgets.get(alice, whose)
        assert (state.spent, state.reserved) == (Amounts(12, 3, 1, 40), NOTHING)


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_budget_with_nothing_left_refuses_a_turn_and_leaves_the_session_free(
    stores: Stores, alice: Principal, scope: Scope
) -> None:
    session = await make(stores, alice)
    whose = Whose(scope, {Scope.SESSION: session, Scope.USER: "alice", Scope.TENANT: ""}[scope])
    await stores.budgets.set(alice, whose, Budget(Amounts(tool_calls=0)))
    for _ in range(2):
        with pytest.raises(BudgetExhausted):
            await begin(stores, alice, session)
    await stores.budgets.set(alice, whose, None)
    turn = await begin(stores, alice, session)
    assert turn.token > 0
    await end(stores, alice, session, turn, NOTHING)


async def test_one_turn_after_another_is_not_refused_for_what_the_first_gave_back(
    stores: Stores, alice: Principal
) -> None:
    session = await make(stores, alice)
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=100)))
    for _ in range(5):
        turn = await begin(stores, alice, session)
        await end(stores, alice, session, turn, Amounts(tokens=10))
    assert (await stores.budgets.get(alice, mine(alice))).remaining == Amounts(tokens=50)


async def test_a_run_that_waits_in_the_line_holds_nothing_and_is_granted_what_there_is_when_it_begins(
    stores: Stores, alice: Principal
) -> None:
    session = await make(stores, alice)
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=150)))
    first = await begin(stores, alice, session)
    second = await begin(stores, alice, session)
    third = await begin(stores, alice, session, Order(b"asked", defer=True))
    assert (second.queued, third.queued, second.granted) == (True, True, Amounts())
    await asyncio.sleep(0.1)
    assert (await stores.budgets.get(alice, mine(alice))).reserved.tokens == 100
    await end(stores, alice, session, first, Amounts(tokens=150))
    resumed = await stores.sessions.resume(alice, session, LEASE_MS, 5)
    assert (resumed.turn.run, resumed.turn.granted) == (second.run, Amounts(tokens=0))


async def test_a_run_taken_over_has_one_reservation(open_stores: Open, alice: Principal) -> None:
    stores = open_stores(LONG)
    session = await make(stores, alice)
    await stores.budgets.set(alice, mine(alice), Budget(Amounts(tokens=150)))
    lost = await stores.sessions.begin(alice, session, None, 20, 5, Order(b"asked"))
    await asyncio.sleep(0.05)
    taken = await stores.sessions.resume(alice, session, LEASE_MS, 5)
    assert (taken.turn.run, taken.turn.granted) == (lost.run, Amounts(tokens=100))
    assert (await stores.budgets.get(alice, mine(alice))).reserved.tokens == 100
    await end(stores, alice, session, taken.turn, Amounts(tokens=60))
    state = await stores.budgets.get(alice, mine(alice))
    assert (state.spent.tokens, state.reserved) == (60, NOTHING)
