"""A run that waits has told its budgets what it spent, and nothing is set apart for it until it goes on."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from services.kit.amounts import NO_AMOUNTS, ZERO, Amounts
from services.kit.call import Principal
from services.kit.errors import RunNotFound, SessionBusy, StoreUnavailable
from services.kit.redis import Redis
from services.kit.run_ids import write_run_id
from services.memory.adapters.redis import RedisSessionStore
from services.memory.adapters.redis_accounts import RedisAccounts
from services.memory.adapters.redis_budgets import RedisBudgets
from services.memory.domain import Budget, Ending, Lifetimes, Order, Reserving, Resumed, Scope, Turn, Whose
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.domain import run as orchestrator
from tests.support.waiting import until

LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=6)
RESERVING = Reserving(Amounts(100, 1000, 10, 60_000), lifetime_ms=60_000, unused_ms=50_000)
LEASE_MS = 10_000
TENANT = Whose(Scope.TENANT)
LIMIT = Amounts(tokens=150, tool_calls=20)


class DeafRedis(Redis):
    """A client whose settlements no server hears while `deaf`."""

    deaf = False

    async def replies(self, commands: Sequence[Any], *, kept: bool | None = None) -> list[Any]:
        lost = [self.deaf and str(command[1]).startswith("budget_settle") for command in commands]
        sent = [command for command, away in zip(commands, lost, strict=True) if not away]
        replies = iter(await super().replies(sent, kept=kept) if sent else ())
        return [StoreUnavailable("the store does not answer") if away else next(replies) for away in lost]


class Process:
    """Memory, and the log of an orchestrator."""

    def __init__(self, url: str) -> None:
        self.redis = DeafRedis(url)
        self.budgets = RedisBudgets(self.redis, RESERVING)
        self.accounts = RedisAccounts(self.redis, self.budgets)
        self.sessions = RedisSessionStore(self.redis, LIFETIMES, self.accounts)
        self.log = RedisRunLog(self.redis, 60.0, LEASE_MS / 1000)

    async def create(self, alice: Principal) -> str:
        return (await self.sessions.create(alice, uuid.uuid4().hex, "aura", None)).session_id

    async def begin(self, alice: Principal, session: str) -> Turn:
        return await self.sessions.begin(alice, session, None, LEASE_MS, 5, Order(b"asked"))

    async def park(self, alice: Principal, session: str, turn: Turn, spent: Amounts, wait_s: float = 120.0) -> None:
        held = orchestrator.Turn(write_run_id(session, turn.run), turn.token, False, "aura", ())
        good_for = json.dumps({"run": turn.run, "expires_ms": 2**52, "state": "open"}).encode()
        waiting = orchestrator.Waiting("answer", wait_s, "", f"approval-{turn.token}", good_for)
        first = len((await self.log.read(alice, held.run_id, 0, 100)).entries) + 1
        await self.log.park(alice, held, first, [b"asks"], b"so far", waiting, spent)

    async def settle(self, alice: Principal, session: str) -> None:
        """What is done once a run waits, and by whoever takes over from one that died before."""
        with pytest.raises((RunNotFound, SessionBusy)):
            await self.resume(alice, session)

    async def resume(self, alice: Principal, session: str) -> Resumed:
        return await self.sessions.resume(alice, session, LEASE_MS, 5)

    async def answer(self, alice: Principal, session: str, turn: Turn) -> Resumed:
        run_id = write_run_id(session, turn.run)
        await self.log.respond(alice, run_id, f"approval-{turn.token}", "approved", b"yes", any_user=False)
        return await self.resume(alice, session)

    async def end(self, alice: Principal, session: str, turn: Turn, spent: Amounts, first: int) -> None:
        await self.sessions.end(alice, session, Ending(turn.run, turn.token, first, [b"over"], spent=spent))

    async def is_counted(self, alice: Principal, spent: Amounts, reserved: Amounts = ZERO) -> None:
        async def counted() -> bool:
            states = [await self.budgets.get(alice, each) for each in (Whose(Scope.USER, alice.user), TENANT)]
            return all((state.spent, state.reserved) == (spent, reserved) for state in states)

        await until(counted)

    async def close(self) -> None:
        await self.accounts.close()
        await self.redis.close()


@pytest.fixture(params=["one", "cluster"])
async def processes(
    request: pytest.FixtureRequest, valkey_url: str, cluster_url: str
) -> AsyncIterator[tuple[Process, Process]]:
    url = valkey_url if request.param == "one" else cluster_url
    both = Process(url), Process(url)
    yield both
    for process in both:
        await process.close()


@pytest.fixture
async def alice(processes: tuple[Process, Process]) -> Principal:
    owner = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    for whose in (Whose(Scope.USER, "alice"), TENANT):
        await processes[0].budgets.set(owner, whose, Budget(LIMIT))
    return owner


async def test_nothing_is_set_apart_for_a_run_that_waits_and_what_it_spent_is_counted(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    process, _ = processes
    session = await process.create(alice)
    turn = await process.begin(alice, session)
    await process.is_counted(alice, ZERO, Amounts(100, 0, 10, 0))  # as a control
    await process.park(alice, session, turn, Amounts(30, 5, 1, 200))
    await process.settle(alice, session)
    await process.is_counted(alice, Amounts(30, 5, 1, 200))


@pytest.mark.parametrize("other_process", [False, True])
async def test_a_run_that_waits_twice_is_counted_once_each_token(
    processes: tuple[Process, Process], alice: Principal, other_process: bool
) -> None:
    first, last = processes[0], processes[other_process]
    session = await first.create(alice)
    whose = Whose(Scope.SESSION, session)
    await first.budgets.set(alice, whose, Budget(Amounts(tokens=90)))
    turn = await first.begin(alice, session)
    assert turn.granted == Amounts(90, None, 10, None)
    await first.park(alice, session, turn, Amounts(30, 5, 1, 200))
    await first.settle(alice, session)
    turn = (await last.answer(alice, session, turn)).turn
    assert turn.granted == Amounts(90, None, 11, None)  # in all, the 30 and the 1 that are counted included
    await last.park(alice, session, turn, Amounts(50, 5, 3, 300))
    await last.settle(alice, session)
    await last.is_counted(alice, Amounts(50, 5, 3, 300))
    turn = (await first.answer(alice, session, turn)).turn
    assert turn.granted == Amounts(90, None, 13, None)
    await first.end(alice, session, turn, Amounts(70, 9, 4, 350), 3)
    await first.is_counted(alice, Amounts(70, 9, 4, 350))
    assert (await first.budgets.get(alice, whose)).spent == Amounts(70, 9, 4, 350)
    again = await last.begin(alice, session)
    assert again.granted.tokens == 20
    await last.end(alice, session, again, Amounts(5, 0, 0, 10), 1)
    await last.is_counted(alice, Amounts(75, 9, 4, 360))


async def test_whoever_takes_over_brings_in_what_a_run_spent_whose_process_died_when_it_began_to_wait(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    dying, other = processes
    session = await dying.create(alice)
    turn = await dying.begin(alice, session)
    await dying.park(alice, session, turn, Amounts(30, 5, 1, 200))
    await other.is_counted(alice, ZERO, Amounts(100, 0, 10, 0))  # nobody was told
    for _ in range(2):
        await other.settle(alice, session)
        await other.is_counted(alice, Amounts(30, 5, 1, 200))


async def test_a_run_whose_process_died_when_it_began_to_wait_can_spend_what_was_set_apart_for_it(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    dying, other = processes
    session = await dying.create(alice)
    dying.redis.deaf = True
    turn = await dying.begin(alice, session)
    await dying.park(alice, session, turn, Amounts(60, 5, 1, 200))
    turn = (await other.answer(alice, session, turn)).turn
    assert turn.granted == Amounts(60 + 90, None, 11, None)
    await other.end(alice, session, turn, Amounts(100, 5, 2, 250), 2)
    await other.is_counted(alice, Amounts(100, 5, 2, 250))


async def test_what_a_run_does_that_nobody_covers_any_more_is_granted_nothing(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    process, _ = processes
    session, busy = await process.create(alice), await process.create(alice)
    turn = await process.begin(alice, session)
    await process.park(alice, session, turn, Amounts(60, 0, 1, 200))
    await process.settle(alice, session)
    await process.is_counted(alice, Amounts(60, 0, 1, 200))
    other = await process.begin(alice, busy)
    assert other.granted.tokens == 90
    resumed = (await process.answer(alice, session, turn)).turn
    assert resumed.granted.tokens == 60  # all that it has spent
    await process.end(alice, session, resumed, Amounts(60, 0, 1, 210), 2)
    await process.end(alice, busy, other, Amounts(90, 0, 0, 10), 1)
    await process.is_counted(alice, Amounts(150, 0, 1, 220))


async def test_a_run_that_is_lost_after_it_waited_is_counted_once(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    dying, other = processes
    session = await dying.create(alice)
    turn = await dying.begin(alice, session)
    await dying.park(alice, session, turn, Amounts(30, 5, 1, 200))
    run_id = write_run_id(session, turn.run)
    await dying.log.respond(alice, run_id, f"approval-{turn.token}", "approved", b"yes", any_user=False)
    await dying.sessions.resume(alice, session, 10, 5)
    await asyncio.sleep(0.05)
    taken = await other.resume(alice, session)
    assert (taken.attempts, taken.turn.granted) == (1, Amounts(130, None, 11, None))
    await other.end(alice, session, taken.turn, Amounts(40, 5, 1, 250), 2)
    await other.is_counted(alice, Amounts(40, 5, 1, 250))


async def test_a_run_that_waited_has_more_set_apart_for_the_whole_of_it(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    process, _ = processes
    session = await process.create(alice)
    turn = await process.begin(alice, session)
    await process.park(alice, session, turn, Amounts(30, 5, 1, 200))
    await process.settle(alice, session)
    turn = (await process.answer(alice, session, turn)).turn
    assert (turn.granted.tokens, turn.left.tokens) == (130, 150)
    found = await process.sessions.extend(alice, session, turn.run, turn.token, Amounts(tokens=145))
    assert (found.amounts.tokens, found.left.tokens) == (145, 150)
    await process.is_counted(alice, Amounts(30, 5, 1, 200), Amounts(115, 0, 10, 0))
    await process.end(alice, session, turn, Amounts(140, 5, 1, 250), 2)
    await process.is_counted(alice, Amounts(140, 5, 1, 250))


async def test_a_run_told_to_stop_keeps_what_is_set_apart_for_it_until_its_end(
    processes: tuple[Process, Process], alice: Principal
) -> None:
    process, _ = processes
    session = await process.create(alice)
    turn = await process.begin(alice, session)
    await process.log.request_cancel(alice, write_run_id(session, turn.run))
    await process.park(alice, session, turn, Amounts(30, 5, 1, 200))
    await process.is_counted(alice, ZERO, Amounts(100, 0, 10, 0))
    await process.end(alice, session, turn, Amounts(30, 5, 1, 210), 1)
    await process.is_counted(alice, Amounts(30, 5, 1, 210))


async def test_without_limits_a_run_that_waited_is_counted_all_the_same(processes: tuple[Process, Process]) -> None:
    process, _ = processes
    bob = Principal(f"tenant-{uuid.uuid4().hex}", "bob")
    session = await process.create(bob)
    turn = await process.begin(bob, session)
    assert turn.granted == NO_AMOUNTS
    await process.park(bob, session, turn, Amounts(30, 5, 1, 200))
    await process.settle(bob, session)
    turn = (await process.answer(bob, session, turn)).turn
    assert turn.granted == NO_AMOUNTS
    await process.end(bob, session, turn, Amounts(31, 5, 1, 250), 2)
    await process.is_counted(bob, Amounts(31, 5, 1, 250))
