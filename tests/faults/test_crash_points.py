"""A process is killed at each point at which something could be lost or done twice: neither is.

Runs are held at their points one after the other, and all who hold one are killed at once: a kill and a takeover for
all of them. First those that work on runs are killed, then those that work for them. The full counts kill anew each
time.
"""

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from services.dev.environment import DRAIN_S
from services.kit.failpoints import Point
from services.orchestrator.checkpoint import read_progress
from tests.faults.orders import ANSWER, Order, customers_of, store_of
from tests.support.client import kinds
from tests.support.waiting import until

long = pytest.mark.chaos
POINTS = (Point.BEFORE_INTENT, Point.AFTER_INTENT, Point.AFTER_EFFECT, Point.BEFORE_COMMIT, Point.AFTER_COMMIT)
STEPS = (Point.UNDERSTOOD, Point.RETRIEVED, Point.SAID, Point.TOLD)
TOOL = (Point.BEFORE_TOOL_INTENT, Point.AFTER_TOOL_INTENT, Point.BEFORE_TOOL_RESULT, Point.AFTER_TOOL_RESULT)
TURN = (Point.BEFORE_TURN, Point.AFTER_TURN, Point.BEFORE_TURN_END, Point.AFTER_TURN_END)
RUNS = [*(("order", point) for point in (*POINTS, *STEPS)), *(("create", point) for point in POINTS)]
TOOLS = [*(("deliver", point) for point in (Point.TOOL_ACCEPTED, *TOOL)), *(("order", point) for point in TOOL)]
TURNS = [("order", point) for point in TURN]
"""How a customer begins a run, and the point at which a process is killed: one that works on runs, an orchestrator or
a worker; toolexec, whose tool runs in the background or not; memory."""

KILLED = {"run": {"order": "orchestrator", "create": "worker"}, "tool": "toolexec", "turn": "memory"}
"""What runs in the process, by the family of the point."""
KEPT = {
    Point.UNDERSTOOD: lambda at: at.understanding is not None and at.facts is None,
    Point.RETRIEVED: lambda at: at.facts is not None and at.calls is None,
    Point.AFTER_INTENT: lambda at: [call.tool for call in at.calls] == ["order"] and at.answered == 0,
    Point.TOLD: lambda at: at.answered == 1 and at.messages[-1].tool_call_id == at.calls[0].id,
    Point.BEFORE_COMMIT: lambda at: (at.step, at.calls, at.said) == (2, (), ANSWER),
}
"""How far a run has come, by its checkpoint, that stands at a point: a step each, also a call of the model."""

MANY = 20
WHOLE_S = 60.0
KEPT_S = 5.0
"""A checkpoint waits a moment for company; so long on a busy machine."""


class Kills:
    """Kills processes of a stack at points."""

    def __init__(self, rig, customers):
        self._rig, self._customers = rig, customers
        self._before = {state.pid: (name, state.restarts) for name, state in rig.stack.state.parts.items()}
        self._pids = set()

    async def hold(self, begin, point):
        """An order whose process stands at a point, to be killed there."""
        return await self._comes(begin, point, "hold")

    async def at_once(self, begin, point):
        """An order whose process was killed at a point as soon as it was there."""
        return await self._comes(begin, point, "kill")

    async def _comes(self, begin, point, action):
        self._rig.points.arm(f"{point}={action}")
        order = await getattr(self._customers, begin)()
        await self.came(order)
        return order

    async def came(self, order):
        """Waits for a process to come to the point that is armed; it is to be killed, if it was not."""
        self._pids.add(await self._customers.happened(order))

    @property
    def names(self):
        """The parts that run in these processes."""
        return [self._before[pid][0] for pid in self._pids]

    def kill(self):
        """Kills those that live."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def back(self):
        """Returns when all that ran in them is ready again."""
        for name, restarts in map(self._before.get, self._pids):
            await self._rig.ready_again(name, restarts)


async def ended(orders):
    """Returns once the clients of all orders have seen their ends."""
    await asyncio.wait_for(asyncio.gather(*(order.end() for order in orders)), WHOLE_S)


async def kept_at(store, point, order):
    """Whether the checkpoint of an order that is held at a point says so."""
    kept = await store.hget(order.keys.work, "checkpoint")
    return kept is not None and KEPT[point](read_progress(kept))


async def flip(store, key, field):
    """Changes one bit of what is kept of a run."""
    kept = bytearray(await store.hget(key, field))
    kept[len(kept) // 2] ^= 1
    await store.hset(key, field, bytes(kept))


@dataclass
class Killed:
    """What became of runs whose processes were all killed at once, each at its point."""

    at: dict[tuple[str, Point], Order] = field(default_factory=dict)
    asked: Order | None = None
    without_checkpoint: Order | None = None
    without_result: Order | None = None
    broken: dict[str, Order] = field(default_factory=dict)


@dataclass
class KilledFor:
    """The same of those whose processes lived on, and those that worked for them were killed."""

    at: dict[tuple[str, Point], Order] = field(default_factory=dict)
    payment: Order | None = None


@pytest.fixture(scope="module")
async def clients(running_stack):
    """Customers to ask what became of runs that have ended: they stay while parts come and go."""
    async with customers_of(running_stack) as made:
        yield made


@pytest.fixture(scope="module")
async def after_the_kill(running_stack, quick_restarts):
    """All of them are at their ends. Of some the store was tampered with, as if a guard had been off."""
    found = Killed()
    async with customers_of(running_stack) as customers, store_of(running_stack) as store:
        kills = Kills(running_stack, customers)
        for begin, point in RUNS:
            found.at[begin, point] = await kills.hold(begin, point)
        for (_, point), order in found.at.items():
            if point in KEPT:
                await until(lambda point=point, order=order: kept_at(store, point, order), KEPT_S)
        found.asked = await customers.ask_to_pay()
        found.without_checkpoint = await kills.hold("order", Point.AFTER_EFFECT)
        found.without_result = await kills.hold("order", Point.AFTER_EFFECT)
        found.broken = {field: await kills.hold("order", Point.AFTER_EFFECT) for field in ("checkpoint", "record")}
        await store.hdel(found.without_checkpoint.keys.work, "checkpoint")
        async for key in store.scan_iter(f"{found.without_result.keys.session.removesuffix('session')}tool:*"):
            await store.delete(key)
        for field_, order in found.broken.items():
            await flip(store, order.keys.work, field_)
        kills.kill()
        await ended([*found.at.values(), found.without_checkpoint, found.without_result, *found.broken.values()])
        await kills.back()
    return found


@pytest.fixture(scope="module")
async def after_the_other_kill(running_stack, quick_restarts):
    """All of them are at their ends."""
    found = KilledFor()
    async with customers_of(running_stack) as customers:
        kills = Kills(running_stack, customers)
        found.payment = await customers.ask_to_pay()
        running_stack.points.arm(f"{Point.BEFORE_TOOL_RESULT}=hold")
        await customers.answer(found.payment, approve=run_pb2.Approve())
        await kills.came(found.payment)
        for begin, point in TOOLS:  # those last whose caller waits for the tool
            found.at[begin, point] = await kills.hold(begin, point)
        assert set(kills.names) == {"toolexec"}
        assert not any(order.task.done() for order in found.at.values())
        kills.kill()
        for begin, point in TURNS:
            one = Kills(running_stack, customers)
            found.at[begin, point] = await one.at_once(begin, point)
            await one.back()
        await ended(found.at.values())
        await asyncio.wait_for(customers.read_on(found.payment), WHOLE_S)
        await kills.back()
    return found


def requests_at(point):
    """How often a tool is asked for the one effect of a run, of which a process is killed at a point."""
    return 2 if point is Point.BEFORE_TOOL_RESULT else 1


@pytest.mark.parametrize(("begin", "point"), RUNS)
async def test_a_run_whose_process_is_killed_at_a_crash_point_is_whole(after_the_kill, clients, begin, point):
    order = after_the_kill.at[begin, point]
    await clients.check(order)
    assert clients.rig.ledger.requests(order.item) == 1
    # The model is asked again only for what nobody had noted yet.
    assert ("restarted" in kinds(order.seen.events)) == (point is Point.SAID)


@pytest.mark.parametrize(("begin", "point"), [*TOOLS, *TURNS])
async def test_a_run_is_whole_though_who_works_for_it_is_killed_at_a_crash_point(
    after_the_other_kill, clients, begin, point
):
    order = after_the_other_kill.at[begin, point]
    await clients.check(order)
    assert clients.rig.ledger.requests(order.item) == requests_at(point)


async def test_control_without_its_checkpoint_a_run_begins_again(after_the_kill, clients):
    with pytest.raises(AssertionError, match="its answer is another"):
        await clients.check(after_the_kill.without_checkpoint)


async def test_control_without_results_kept_by_key_a_tool_is_asked_twice(after_the_kill, clients):
    assert clients.rig.ledger.requests(after_the_kill.without_result.item) == 2


@pytest.mark.parametrize("field", ["checkpoint", "record"])
async def test_a_run_of_which_a_bit_was_lost_ends_and_says_so_instead_of_going_on_wrong(after_the_kill, clients, field):
    order = after_the_kill.broken[field]
    reasons = [detail.value for detail in order.seen.error.details]
    assert any(b"CHECKPOINT_BROKEN" in reason for reason in reasons)
    assert order.seen.answer == order.seen.events[-1].failed.partial_answer == ""
    assert await clients.history(order) == []
    assert await clients.watched(order) == order.seen.events


async def test_what_became_of_a_tool_without_keys_is_asked_and_the_tool_not_called_again(
    after_the_other_kill, rig, customers
):
    payment = after_the_other_kill.payment
    assert payment.seen.events[-1].approval_required.reason == run_event_pb2.APPROVAL_REASON_OUTCOME_UNKNOWN
    assert rig.ledger.payments[payment.item] == 1
    await customers.answer(payment, deny=run_pb2.Deny(reason="it was paid"))
    await customers.read_on(payment)
    assert payment.seen.state == "completed"
    assert [event.sequence for event in payment.seen.events] == list(range(1, len(payment.seen.events) + 1))
    assert rig.ledger.payments[payment.item] == 1


async def test_what_was_asked_of_a_person_before_the_kill_can_be_answered_after_it(after_the_kill, rig, customers):
    payment = after_the_kill.asked
    assert rig.ledger.payments[payment.item] == 0
    await customers.answer(payment, approve=run_pb2.Approve())
    await customers.read_on(payment)
    assert (payment.seen.state, rig.ledger.payments[payment.item]) == ("completed", 1)


@long
@pytest.mark.parametrize(("begin", "point"), [*RUNS, *TOOLS, *TURNS])
async def test_twenty_processes_killed_at_a_crash_point_lose_and_double_nothing(
    rig, customers, quick_restarts, begin, point
):
    family = KILLED[point.partition(".")[0]]
    service = family if isinstance(family, str) else family[begin]
    for _ in range(MANY):
        kills = Kills(rig, customers)
        order = await kills.at_once(begin, point)
        assert [name.partition("-")[0] for name in kills.names] == [service]
        await ended([order])
        await kills.back()
        await customers.check(order)
        assert rig.ledger.requests(order.item) == requests_at(point)


@long
async def test_a_process_told_to_stop_lets_a_payment_under_way_end_and_another_goes_on_with_its_result(
    rig, customers, quick_restarts
):
    rig.points.arm(f"{Point.BEFORE_TOOL_RESULT}=hold")
    payment = await customers.pay()
    await customers.happened(payment)
    restarts = {name: rig.part(name).restarts for name in rig.replicas("orchestrator")}
    for name in restarts:
        os.kill(rig.pid(name), signal.SIGTERM)
    await asyncio.sleep(DRAIN_S - 0.5)  # runs are handed over a second before their time is over
    rig.points.release()
    await asyncio.wait_for(customers.read_on(payment), WHOLE_S)
    assert payment.seen.state == "completed"
    assert kinds(payment.seen.events).count("approval_required") == 1
    assert rig.ledger.payments[payment.item] == 1
    for name, count in restarts.items():
        await rig.ready_again(name, count)


async def test_the_client_of_an_undisturbed_run_sees_the_same(rig, customers):
    order = await (await customers.order()).end()
    await customers.check(order)
    assert order.seen.answer == ANSWER
    assert rig.ledger.requests(order.item) == 1
