"""Processes are killed at random, or stand still for longer than they may: every run ends as if they had not."""

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from myriad.orchestrator.v1 import run_pb2
from services.dev.conversation import Conversation
from services.dev.state import State
from services.kit.failpoints import Point
from tests.faults.orders import ANSWER, Order, asked, said, store_of
from tests.support.cgroup import frozen
from tests.support.unguarded import FENCING_OF_MOST, MARK, SAME_EVENT, replaced
from tests.support.waiting import until

long = pytest.mark.chaos
SEED = "MYRIAD_CHAOS_SEED"
"""Variable with the seed to kill by; a new one is made, and shown, when it is not set."""

MODEL = "triton"
"""A run that a client waits for says so when its model is gone, and fails, which is its right end; one of the queue is
tried again."""

MOST_DOWN = 2
"""Nobody is killed while so many are not back: where everyone is dead a kill shows nothing."""

POINTS = (Point.AFTER_INTENT, Point.AFTER_EFFECT, Point.BEFORE_COMMIT)
"""Where something is still to be written."""

FEW, MANY = 5, 500
"""Parts that are killed at least while there are a few runs. While there are as many as this, each is."""

DELAY_MS = 60
RUN_S = 120.0
LEASE_S = 3.0
LOST_S = 2 * LEASE_S + 4.0
"""After so long lease and owner are given up, and the other replica has done what was left."""

GONE_S = 600.0


@pytest.fixture
def chance(capsys):
    """Random numbers, whose seed is shown."""
    seed = int(os.environ.get(SEED, random.randrange(10**6)))
    with capsys.disabled():
        print(f" {SEED}={seed}", end=" ")  # noqa: T201
    return random.Random(seed)


async def kill_at_random(rig, chance, pauses, killed, spared):
    """Kills one part after the other, whatever it does just now, until cancelled. All come before any comes again."""
    parts = [name for name in rig.stack.state.parts if name not in spared]
    while True:
        await asyncio.sleep(chance.uniform(*pauses))
        fewest = min(killed[name] for name in parts)
        name = chance.choice([name for name in parts if killed[name] == fewest])
        down = sum(state.state is not State.READY for state in rig.stack.state.parts.values())
        if rig.part(name).state is State.READY and down < MOST_DOWN:
            os.kill(rig.pid(name), signal.SIGKILL)
            killed[name] += 1


async def all_ready(rig):
    return all(state.state is State.READY for state in rig.stack.state.parts.values())


@pytest.mark.parametrize(
    ("runs", "at_once", "pauses", "by_workers"),
    [
        (50, 16, (0.5, 1.5), False),
        pytest.param(500, 4, (5.0, 20.0), False, marks=[long, pytest.mark.timeout(1800)]),
        pytest.param(500, 4, (5.0, 20.0), True, marks=[long, pytest.mark.timeout(1800)]),
    ],
)
async def test_runs_end_as_the_undisturbed_ones_while_any_process_is_killed_at_random(
    rig, customers, quick_restarts, chance, runs, at_once, pauses, by_workers
):
    orders, killed = [], Counter()
    begin, spared = (customers.create, set()) if by_workers else (customers.order, {MODEL})
    hit = FEW if runs < MANY else len(set(rig.stack.state.parts) - spared)

    async def customer():
        while len(orders) < runs or len(killed) < hit:
            order = await begin(DELAY_MS)
            orders.append(order)
            await asyncio.wait_for(order.end(), RUN_S)

    killing = asyncio.create_task(kill_at_random(rig, chance, pauses, killed, spared))
    try:
        await asyncio.gather(*(customer() for _ in range(at_once)))
    finally:
        killing.cancel()
    await until(lambda: all_ready(rig), 60)
    for order in orders:
        await customers.check(order)


@dataclass
class Frozen:
    """Orders that one process works on, and those that went to another meanwhile."""

    mine: list[Order] = field(default_factory=list)
    others: list[Order] = field(default_factory=list)


async def owned_by(rig, customers, pid, count):
    """So many orders of this process, each held at a point from which something is still to be written."""
    found = Frozen()
    while len(found.mine) < count:
        rig.points.arm(f"{POINTS[len(found.mine) % len(POINTS)]}=hold")
        order = await customers.order()
        (found.mine if await customers.happened(order) == pid else found.others).append(order)
    return found


@pytest.mark.parametrize(("rounds", "runs"), [(1, 5), pytest.param(10, 10, marks=long)])
async def test_an_owner_that_stood_still_beyond_its_lease_writes_nothing_any_more(rig, customers, rounds, runs):
    for _ in range(rounds):
        await stands_still(rig, customers, runs)


async def stands_still(rig, customers, runs):
    """An owner of so many runs stands still until others have ended them, and goes on.

    One of them is the control: the store looks neither at the owner's token there, nor at what the log has.
    """
    pid, log = rig.pid("orchestrator"), rig.stack.folder.log("orchestrator")
    orders = await owned_by(rig, customers, pid, runs)
    control = orders.mine.pop(POINTS.index(Point.BEFORE_COMMIT))
    logged = log.stat().st_size
    async with store_of(rig) as store, replaced(store, FENCING_OF_MOST, SAME_EVENT):
        with frozen(pid):
            await until(lambda: all_over(customers, [*orders.mine, control]), LOST_S + 20)
            logs = [await customers.watched(order) for order in orders.mine]
            assert await answers(customers, control) == 1
            await store.hset(control.keys.session, MARK, 1)
            rig.points.release()
        await asyncio.gather(*(order.end() for order in (*orders.mine, *orders.others)))
        await until(lambda: all_refused(log, logged, orders.mine), LOST_S)
        await until(lambda: answered_twice(customers, control), LOST_S)
    for order, ended in zip(orders.mine, logs, strict=True):
        await customers.check(order)
        assert await customers.watched(order) == ended
        assert rig.ledger.requests(order.item) == 1


async def answered_twice(customers, order):
    """Whether a stale owner has written its answer beside the other's."""
    return await answers(customers, order) == 2


async def answers(customers, order):
    """How often a session's history has the answer of its only run."""
    return [said(message) for message in await customers.history(order)].count(f"ASSISTANT {ANSWER}")


async def all_refused(log, since, orders):
    """Whether a process has tried to write to all of these runs since, and was refused."""
    tried = [line for line in log.read_bytes()[since:].decode().splitlines() if "LEASE_LOST" in line]
    return all(any(order.seen.run_id in line for line in tried) for order in orders)


async def all_over(customers, orders):
    """Whether others have brought all of these to their ends."""
    return all([await customers.is_over(order) for order in orders])


@pytest.mark.parametrize("seconds", [1.0, pytest.param(GONE_S, marks=[long, pytest.mark.timeout(1800)])])
async def test_a_client_that_vanishes_finds_its_answer_when_it_is_back(rig, customers, seconds):
    session = (await Conversation.begin(customers.client, agent="clerk", session_id=None)).session_id
    item = f"vanished-{session}"
    order = Order(item, asked(item, DELAY_MS), session)
    request = run_pb2.RunTurnRequest(
        session_id=session, input=order.text, request_id=session, on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE
    )

    def begun():
        return customers.client.stream(customers.stub.RunTurn, request, timeout=RUN_S)

    async with aclosing(begun()) as events:
        async for event in events:
            order.seen.add(event)
            if event.HasField("text_delta"):
                break
    await asyncio.sleep(seconds)
    await until(lambda: all_over(customers, [order]), 20)
    found = await customers.watched(order)
    assert found[: len(order.seen.events)] == order.seen.events
    assert [event async for event in begun()] == found
    for event in found[len(order.seen.events) :]:
        order.seen.add(event)
    await customers.check(order)
