"""What a run has spent reaches its user's and tenant's budgets, whoever dies between its end and that."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.errors import LeaseLost, RunNotFound, SessionNotFound, StoreUnavailable
from services.kit.keys import SessionKeys, TenantKeys, UserKeys
from services.kit.redis import Redis
from services.memory.adapters.redis import RedisSessionStore
from services.memory.adapters.redis_accounts import RedisAccounts
from services.memory.adapters.redis_budgets import RedisBudgets
from services.memory.domain import Budget, Ending, Lifetimes, Order, Request, Reserving, Scope, Turn, Whose
from tests.support.valkey import as_user
from tests.support.waiting import until

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=6)
RESERVING = Reserving(Amounts(100, 1000, 10, 60_000), lifetime_ms=60_000, unused_ms=50_000)
LEASE_MS = 10_000
SPENT = Amounts(12, 3, 1, 40)
TENANT = Whose(Scope.TENANT)


_LOST = StoreUnavailable("the store does not answer")


def _settles(command: Sequence[Any]) -> bool:
    return str(command[1]).startswith("budget_settle")


class DyingRedis(Redis):
    """A client that dies, for all the server hears, before it settles anything while `dead`."""

    dead = False

    async def replies(self, commands: Sequence[Any], *, kept: bool | None = None) -> list[Any]:
        sent = [command for command in commands if not (self.dead and _settles(command))]
        replies = iter(await super().replies(sent, kept=kept) if sent else ())
        return [next(replies) if command in sent else _LOST for command in commands]


class Process:
    """A process with memory in it."""

    def __init__(self, url: str) -> None:
        self.redis = DyingRedis(url)
        self.budgets = RedisBudgets(self.redis, RESERVING)
        self.accounts = RedisAccounts(self.redis, self.budgets)
        self.sessions = RedisSessionStore(self.redis, LIFETIMES, self.accounts)

    async def begin(self, principal: Principal, session_id: str) -> Turn:
        return await self.sessions.begin(principal, session_id, None, LEASE_MS, 5, Order(b"asked"))

    async def end(self, principal: Principal, session_id: str, turn: Turn) -> None:
        await self.sessions.end(principal, session_id, Ending(turn.run, turn.token, 1, [b"over"], spent=SPENT))

    async def spent(self, principal: Principal) -> list[Amounts]:
        whose = (Whose(Scope.USER, principal.user), TENANT)
        return [(await self.budgets.get(principal, each)).spent for each in whose]

    async def outbox(self, principal: Principal, session_id: str) -> list[bytes]:
        found: list[bytes] = await self.redis.execute("HGETALL", SessionKeys(principal, session_id).outbox)
        return found

    async def close(self) -> None:
        await self.accounts.close()
        await self.redis.close()


@pytest.fixture(params=["one", "cluster"])
async def url(request: pytest.FixtureRequest, valkey_url: str, cluster_url: str) -> str:
    return as_user(valkey_url if request.param == "one" else cluster_url, "memory")


@pytest.fixture
async def processes(url: str) -> AsyncIterator[tuple[Process, Process]]:
    both = Process(url), Process(url)
    yield both
    for process in both:
        await process.close()


@pytest.fixture
def alice() -> Principal:
    return Principal(f"tenant-{uuid.uuid4().hex}", "alice")


async def lost(dying: Process, alice: Principal, runs: int = 1) -> str:
    """A session whose last runs ended, and of which nobody was told what they spent."""
    session = (await dying.sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id
    dying.redis.dead = True
    for _ in range(runs):
        await dying.end(alice, session, await dying.begin(alice, session))
    assert await dying.spent(alice) == [Amounts(0, 0, 0, 0)] * 2
    return session


async def test_a_run_that_cannot_be_gone_on_with_for_want_of_its_budgets_has_lost_no_owner(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    away, other = processes
    session = (await away.sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id
    begun = await away.begin(alice, session)
    keys = SessionKeys(alice, session)
    names = (keys.session, keys.lease, keys.log(begun.run), keys.work)
    await away.redis.call("run_append", names, begun.run, begun.token, 0, 60_000, -1, b"")
    away.budgets.reserve = _refused  # type: ignore[method-assign]
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await away.sessions.resume(alice, session, LEASE_MS, 5)
    assert (await other.sessions.resume(alice, session, LEASE_MS, 5)).attempts == 0


async def _refused(*arguments: object, **named: object) -> Any:
    raise _LOST


@pytest.mark.parametrize("runs", [1, 3])
async def test_the_next_run_of_the_session_brings_in_what_was_not_settled(
    processes: tuple[Process, Process], alice: Principal, runs: int
) -> None:
    dying, other = processes
    session = await lost(dying, alice, runs)
    turn = await other.begin(alice, session)
    await other.end(alice, session, turn)

    async def settled() -> bool:
        return await other.spent(alice) == [Amounts(*(each * (runs + 1) for each in (12, 3, 1, 40)))] * 2

    await until(settled)


async def test_whoever_looks_after_the_session_of_the_dead_brings_it_in(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    dying, other = processes
    session = await lost(dying, alice)
    with pytest.raises(RunNotFound):
        await other.sessions.resume(alice, session, LEASE_MS, 5)

    async def settled() -> bool:
        return await other.spent(alice) == [SPENT] * 2

    await until(settled)


async def test_two_that_bring_it_in_at_once_count_it_once(processes: tuple[Process, Process], alice: Principal) -> None:
    dying, other = processes
    session = await lost(dying, alice)
    dying.redis.dead = False
    for _ in range(3):
        await asyncio.gather(*(each.accounts.replay_all(alice, session) for each in processes))
    await asyncio.sleep(0.1)
    assert await other.spent(alice) == [SPENT] * 2


async def test_a_deleted_session_has_told_what_its_runs_spent(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    dying, other = processes
    session = await lost(dying, alice)
    await other.sessions.delete(alice, session)

    async def settled() -> bool:
        return await other.spent(alice) == [SPENT] * 2

    await until(settled)


async def test_what_is_settled_leaves_the_outbox(processes: tuple[Process, Process], alice: Principal) -> None:
    process, _ = processes
    session = (await process.sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id
    await process.end(alice, session, await process.begin(alice, session))
    assert await process.spent(alice) == [SPENT] * 2

    async def empty() -> bool:
        return not await process.outbox(alice, session)

    await until(empty)


async def test_a_lost_owner_that_comes_back_counts_nothing(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    first, second = processes
    session = (await first.sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id
    stale = await first.sessions.begin(alice, session, None, 10, 5, Order(b"asked"))
    await asyncio.sleep(0.05)
    taken = (await second.sessions.resume(alice, session, LEASE_MS, 5)).turn
    with pytest.raises(Exception, match="a later turn holds the session"):
        await first.end(alice, session, stale)
    await second.end(alice, session, taken)
    assert await second.spent(alice) == [SPENT] * 2


async def test_without_limits_budgets_are_forgotten_and_with_them_kept(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    process, _ = processes
    session = (await process.sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id
    await process.end(alice, session, await process.begin(alice, session))
    await process.begin(alice, session)
    holders = (UserKeys(alice), TenantKeys(alice))
    keys = [key for each in holders for key in (each.budget, each.reservations)]
    assert all(0 < ms <= RESERVING.unused_ms for ms in [await process.redis.execute("PTTL", key) for key in keys])
    await process.budgets.set(alice, TENANT, Budget(Amounts(tokens=5)))
    assert [await process.redis.execute("PTTL", key) for key in keys[2:]] == [-1, -1]
    await process.budgets.set(alice, TENANT, None)
    assert await process.redis.execute("PTTL", keys[2]) > 0


async def test_anothers_end_of_a_turn_settles_nothing(processes: tuple[Process, Process], alice: Principal) -> None:
    process, _ = processes
    session = (await process.sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id
    turn = await process.begin(alice, session)
    for stranger in (Principal(alice.tenant, "bob"), Principal(alice.tenant + "x", "alice")):
        with pytest.raises(SessionNotFound):
            await process.end(stranger, session, turn)
    assert await process.spent(alice) == [Amounts(0, 0, 0, 0)] * 2
    await process.end(alice, session, turn)
    assert await process.spent(alice) == [SPENT] * 2


def undo(keys: SessionKeys, turn: Turn, token: int = 0) -> tuple[Any, ...]:
    names = (keys.session, keys.lease, keys.requests, keys.request_times, keys.work, keys.log(turn.run), keys.line)
    return "turn_undo", names, "alice", turn.run, token or turn.token, "r1"


async def test_a_beginning_is_taken_back_only_by_its_owner_and_while_nobody_waits_for_its_end(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    process, _ = processes
    session = (await process.sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id
    keys, request = SessionKeys(alice, session), Request("r1", b"d")
    turn = await process.sessions.begin(alice, session, request, LEASE_MS, 5, Order(b"asked"))
    with pytest.raises(LeaseLost):
        await process.redis.call(*undo(keys, turn, turn.token + 1))
    assert await process.redis.call(*undo(keys, turn)) == 1
    again = await process.sessions.begin(alice, session, request, LEASE_MS, 5, Order(b"asked"))
    assert (again.attached, again.run) == (False, turn.run + 1)
    assert (await process.begin(alice, session)).queued
    assert await process.redis.call(*undo(keys, again)) == 0
    await process.end(alice, session, again)


async def test_reservations_are_bounded_and_the_oldest_go_first(valkey_url: str, alice: Principal) -> None:
    process, key = Process(valkey_url), UserKeys(alice).reservations
    names = [part for number in range(100_000) for part in (10_000_000_000_000 + number, f"old-{number}")]
    await process.redis.execute("ZADD", key, *names)
    await process.budgets.reserve(alice, "new", strict=True)
    assert await process.redis.execute("ZCARD", key) == 100_000
    assert await process.redis.execute("ZSCORE", key, "new") is not None
    await process.redis.execute("UNLINK", key)
    await process.close()
