"""A request id of a user is of one run: in another session, or with another body, it is refused."""

import asyncio
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

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
from tests.support.unguarded import KNOWN_REQUEST, unguarded

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


# Case 79 for runs: beginnings under one id in any order, with either body, in either session, now or by the workers;
# some are cut, and nobody knows what came of them.

BODIES = (b"d", b"e")
HOWS = ("is told", "is told", "ends it", "is cut")


@dataclass
class Interleaving:
    """One id, and what became of those who asked under it."""

    dice: random.Random
    stores: Callable[[], SessionStore]
    sessions: list[str] = field(default_factory=list)
    begun: set[tuple[str, bytes, int]] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    user: Principal = field(default_factory=lambda: Principal(f"tenant-{uuid.uuid4().hex}", "alice"))

    async def pause(self) -> None:
        for _ in range(self.dice.randrange(6)):
            await asyncio.sleep(0)

    async def attempt(self, session: str, body: bytes, how: str) -> None:
        """One call, to a store opened anew: another process, or the same after a restart."""
        store, order = self.stores(), self.dice.choice((NOW, LATER))
        await self.pause()
        call = asyncio.create_task(begin(store, self.user, session, order, Request("r", body)))
        await self.pause()
        if how == "is cut":
            call.cancel()
            self.cut.add(session)
        (found,) = await asyncio.gather(call, return_exceptions=True)
        if isinstance(found, Turn) and how != "is cut":
            self.begun.add((session, body, found.run))
            if how == "ends it" and found.token and not found.queued:
                await end(store, self.user, session, found)
        else:
            assert isinstance(found, Turn | RequestIdReused | asyncio.CancelledError), found

    async def play(self) -> None:
        self.sessions = [await make(self.stores(), self.user) for _ in range(2)]
        plans = [
            (self.dice.choice(self.sessions), self.dice.choice(BODIES), self.dice.choice(HOWS))
            for _ in range(self.dice.randrange(2, 8))
        ]
        if self.dice.random() < 0.5:
            await asyncio.gather(*(self.attempt(*plan) for plan in plans))
        else:
            for plan in plans:
                await self.attempt(*plan)
        for session in self.sessions * 2:
            for body in BODIES:
                await self.attempt(session, body, "is told")


async def played(stores: Callable[[], SessionStore], seeds: range) -> list[Interleaving]:
    at_once = asyncio.Semaphore(20)
    made = [Interleaving(random.Random(seed), stores) for seed in seeds]

    async def play(one: Interleaving) -> None:
        async with at_once:
            await one.play()

    await asyncio.gather(*map(play, made))
    return made


@pytest.mark.parametrize("rounds", [100, pytest.param(1000, marks=pytest.mark.chaos)])
async def test_however_calls_interleave_one_run_begins_and_all_are_told_of_it(
    open_stores: Callable[[], Stores], rounds: int
) -> None:
    for one in await played(lambda: open_stores()[0], range(rounds)):
        ((session, _, _),) = one.begun
        # One that was cut in the other session may not have come to take back what it began: nobody is told of that.
        for other in {*one.sessions} - {session} - one.cut:
            await open_stores()[0].delete(one.user, other)  # which is refused while it has a run


async def test_control_without_the_guard_more_runs_begin(valkey_url: str) -> None:
    redis = unguarded(Redis(valkey_url), KNOWN_REQUEST)
    made = await played(lambda: RedisSessionStore(redis, LIFETIMES), range(20))
    assert all(len(one.begun) > 1 for one in made)
    await redis.close()
