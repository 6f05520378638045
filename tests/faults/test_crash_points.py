"""A process is killed at each point at which something could be lost or done twice: neither is.

Runs are held at their points one after the other, and all who hold one are killed at once: a kill and a takeover for
all of them. The full counts kill anew each time.
"""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import pytest

from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from services.dev.environment import DRAIN_S
from services.kit.failpoints import Point
from services.orchestrator.checkpoint import read_progress
from tests.faults.orders import ANSWER, customers_of, store_of
from tests.support.client import kinds
from tests.support.waiting import until

long = pytest.mark.chaos
POINTS = (Point.BEFORE_INTENT, Point.AFTER_INTENT, Point.AFTER_EFFECT, Point.BEFORE_COMMIT, Point.AFTER_COMMIT)
STEPS = (Point.UNDERSTOOD, Point.RETRIEVED, Point.SAID, Point.TOLD)
KEPT = {
    Point.UNDERSTOOD: lambda at: at.understanding is not None and at.facts is None,
    Point.RETRIEVED: lambda at: at.facts is not None and at.calls is None,
    Point.AFTER_INTENT: lambda at: [call.tool for call in at.calls] == ["order"] and at.answered == 0,
    Point.TOLD: lambda at: at.answered == 1 and at.messages[-1].tool_call_id == at.calls[0].id,
    Point.BEFORE_COMMIT: lambda at: (at.step, at.calls, at.said) == (2, (), ANSWER),
}
"""How far a run has come, by its checkpoint, that stands at a point: a step each, also a call of the model."""

EACH = 2
MANY = 20
WHOLE_S = 60.0
KEPT_S = 5.0
"""A checkpoint waits a moment for company; so long on a busy machine."""


async def held_at(rig, customers, point):
    """An order whose process stands at a point, and the pid of that process."""
    rig.points.arm(f"{point}=hold")
    order = await customers.order()
    return order, await customers.happened(order)


def parts_of(rig, pids):
    """The parts that run in these processes."""
    return [name for name, state in rig.stack.state.parts.items() if state.pid in pids]


@asynccontextmanager
async def killed(rig, pids):
    """Kills processes of the stack; at the end all that ran in them are ready again."""
    restarts = {name: rig.part(name).restarts for name in parts_of(rig, pids)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    yield
    for name, count in restarts.items():
        await rig.ready_again(name, count)


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


class Killed:
    """What became of runs whose processes were all killed at once, each at its point."""

    def __init__(self):
        self.at = {point: [] for point in (*POINTS, *STEPS)}
        self.without_checkpoint = self.without_result = self.unrecorded = self.payment = self.asked = None
        self.broken = {}


@pytest.fixture(scope="module")
async def after_the_kill(running_stack, quick_restarts):
    """All of them are at their ends. Of some the store was tampered with, as if a guard had been off."""
    rig, found, pids = running_stack, Killed(), set()
    async with customers_of(rig) as customers, store_of(rig) as store:

        async def hold(point):
            order, pid = await held_at(rig, customers, point)
            pids.add(pid)
            return order

        for point in POINTS:
            found.at[point] = [await hold(point) for _ in range(EACH)]
        for point in STEPS:
            found.at[point] = [await hold(point)]
        for point in KEPT:
            await until(lambda point=point: kept_at(store, point, found.at[point][0]), KEPT_S)
        found.unrecorded = await hold(Point.BEFORE_TOOL_RESULT)
        found.asked = await customers.ask_to_pay()
        rig.points.arm(f"{Point.BEFORE_TOOL_RESULT}=hold")
        found.payment = await customers.pay()
        pids.add(await customers.happened(found.payment))
        found.without_checkpoint = await hold(Point.AFTER_EFFECT)
        found.without_result = await hold(Point.AFTER_EFFECT)
        found.broken = {field: await hold(Point.AFTER_EFFECT) for field in ("checkpoint", "record")}
        await store.hdel(found.without_checkpoint.keys.work, "checkpoint")
        async for key in store.scan_iter(f"{found.without_result.keys.session.removesuffix('session')}tool:*"):
            await store.delete(key)
        for field, order in found.broken.items():
            await flip(store, order.keys.work, field)
        orders = [order for held in found.at.values() for order in held]
        everyone = [*orders, found.unrecorded, found.without_checkpoint, found.without_result, *found.broken.values()]
        async with killed(rig, pids):
            await ended(everyone)
            await asyncio.wait_for(customers.read_on(found.payment), WHOLE_S)
    return found


@pytest.mark.parametrize("point", [*POINTS, *STEPS])
async def test_a_run_whose_process_is_killed_at_a_crash_point_is_whole(after_the_kill, rig, customers, point):
    for order in after_the_kill.at[point]:
        await customers.check(order)
        assert rig.ledger.requests(order.item) == 1
        # The model is asked again only for what nobody had noted yet.
        assert ("restarted" in kinds(order.seen.events)) == (point is Point.SAID)


async def test_control_without_its_checkpoint_a_run_begins_again(after_the_kill, customers):
    with pytest.raises(AssertionError, match="its answer is another"):
        await customers.check(after_the_kill.without_checkpoint)


async def test_control_without_results_kept_by_key_a_tool_is_asked_twice(after_the_kill, rig):
    assert rig.ledger.requests(after_the_kill.without_result.item) == 2


@pytest.mark.parametrize("field", ["checkpoint", "record"])
async def test_a_run_of_which_a_bit_was_lost_ends_and_says_so_instead_of_going_on_wrong(
    after_the_kill, customers, field
):
    order = after_the_kill.broken[field]
    reasons = [detail.value for detail in order.seen.error.details]
    assert any(b"CHECKPOINT_BROKEN" in reason for reason in reasons)
    assert order.seen.answer == order.seen.events[-1].failed.partial_answer == ""
    assert await customers.history(order) == []
    assert await customers.watched(order) == order.seen.events


async def test_toolexec_killed_between_an_effect_and_its_record_asks_again_under_the_same_key(
    after_the_kill, rig, customers
):
    await customers.check(after_the_kill.unrecorded)
    assert rig.ledger.requests(after_the_kill.unrecorded.item) == 2  # and one effect


async def test_what_became_of_a_tool_without_keys_is_asked_and_the_tool_not_called_again(
    after_the_kill, rig, customers
):
    payment = after_the_kill.payment
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
@pytest.mark.parametrize("point", [*POINTS, *STEPS])
async def test_twenty_processes_killed_at_a_crash_point_lose_and_double_nothing(rig, customers, quick_restarts, point):
    for _ in range(MANY):
        rig.points.arm(f"{point}=kill")
        before = {state.pid: (name, state.restarts) for name, state in rig.stack.state.parts.items()}
        order = await customers.order()
        dead, restarts = before[await customers.happened(order)]
        await ended([order])
        await customers.check(order)
        assert rig.ledger.requests(order.item) == 1
        await rig.ready_again(dead, restarts)


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
