"""Each part dies, stands still or is cut off under load: what can go on without it does so, the rest fails well.

To fail well is to say UNAVAILABLE, and when to try again.
"""

import asyncio
import contextlib
import os
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from myriad.orchestrator.v1 import sessions_pb2
from services.kit import topology
from services.kit.errors import Unavailable
from services.kit.status import from_proto
from tests.faults.orders import customers_of
from tests.faults.rig import calm, desk_turn, recovery, whole
from tests.support.cgroup import frozen
from tests.support.client import Face, face, kinds
from tests.support.load import OK, steady
from tests.support.waiting import until

long = pytest.mark.chaos

PARTS = ("envoy", *topology.PROCESSES, "triton", "milvus", "valkey")
HELPERS = ("nlu", "retrieval", "toolexec")
NOT_NEEDED = {*HELPERS, "milvus", "worker"}
"""A turn goes on without these."""

RECOVERED_S = 3.0
"""After a part is back: a channel waits up to a second between attempts, and so does a breaker."""

RECOVERED_LATER_S = {"triton": 5.0, "valkey": 5.0}
"""Engines that read models, or data, before they serve."""

SLOWEST_S = 2.0 + 3.0 + 2.0 + 1.0
"""A turn that waits in vain for nlu, retrieval and toolexec."""

EJECTED_S = 4.0
"""Two failed checks of each replica."""

FAST_S = 0.05
"""A call that nobody can answer fails within this time."""

ALSO = dict.fromkeys(("envoy", "orchestrator"), frozenset({grpc.StatusCode.INTERNAL}))
"""A stream that lost its server may end with INTERNAL: what Envoy makes of a reset."""

WORKED_OFF_S = 60.0
"""A run of the queue that nobody could do is done within this time."""


class Desk:
    """Turns that need every part, and what each of them did without."""

    def __init__(self, user):
        self.user = user
        self.degraded = {}

    async def turn(self, _number):
        events = await desk_turn(self.user)
        if kinds(events)[-1] == "failed":
            raise from_proto(events[-1].failed.error)
        assert kinds(events)[-1] == "completed", str(events[-1])
        for event in events:
            if event.WhichOneof("event") == "degraded":
                self.degraded.setdefault(event.degraded.component, set()).add(event.degraded.reason)

    @property
    def reasons(self):
        """Why it was done without them."""
        return set().union(*self.degraded.values())

    async def whole_within(self, seconds):
        """Returns once a turn is whole."""

        async def again():
            with contextlib.suppress(grpc.aio.AioRpcError):
                return whole(await desk_turn(self.user))

        return await until(again, seconds)


@asynccontextmanager
async def killed(rig, parts):
    """Parts die at the begin of the block, and are back at its end."""
    restarts = {part: rig.part(part).restarts for part in parts}
    for part in parts:
        os.kill(rig.pid(part), signal.SIGKILL)
    yield
    await asyncio.gather(*(rig.ready_again(part, restarts[part]) for part in parts))


@asynccontextmanager
async def stopped(rig, parts):
    """Parts stand still."""
    with contextlib.ExitStack() as still:
        for part in parts:
            still.enter_context(frozen(rig.pid(part)))
        yield


@asynccontextmanager
async def holes(rig, parts):
    """Nothing passes to parts, nor from them."""
    with contextlib.ExitStack() as cut:
        for part in parts:
            cut.enter_context(rig.cut_off(part))
        yield


@pytest.mark.parametrize(
    ("fault", "parts", "rps", "seconds"),
    [
        (killed, (*HELPERS, "milvus"), 5, 0),
        (killed, ("memory",), 10, 0),
        (stopped, ("nlu",), 2, 1),
        *(pytest.param(killed, (part,), 10, 0, marks=long) for part in PARTS),
        *(pytest.param(stopped, (part,), 10, 3, marks=long) for part in PARTS),
    ],
)
@pytest.mark.usefixtures("quick_restarts")
async def test_turns_go_on_or_are_unavailable_while_parts_are_down(rig, fault, parts, rps, seconds):
    await is_borne(rig, fault, parts, rps, seconds)


@long
@pytest.mark.parametrize("part", PARTS)
async def test_turns_go_on_or_are_unavailable_while_a_part_is_a_black_hole(lines, part):
    await is_borne(lines, holes, (part,), 10, 3)


async def is_borne(rig, fault, parts, rps, seconds):
    """Breaks parts under load, for so long: what came of the turns is as it should, and all is well soon after."""
    replicas = [replica for part in parts for replica in rig.replicas(part)]
    within = max(RECOVERED_LATER_S.get(part, RECOVERED_S) for part in parts)
    async with customers_of(rig) as customers, face(rig.stack) as user, AsyncExitStack() as loaded:
        desk = Desk(user)
        load = await loaded.enter_async_context(steady(rps, desk.turn))
        await asyncio.sleep(1)
        assert desk.degraded == {}  # the control
        broken = load.now
        async with fault(rig, replicas):
            queued = await customers.create() if parts == ("worker",) else None
            await asyncio.sleep(seconds)
            assert queued is None or fault is killed or not await customers.is_over(queued), "it does not need it"
            if set(parts) <= NOT_NEEDED and fault is not killed:
                await loaded.aclose()  # before the parts go on: turns wait for them as long as they do for the dead
        back = load.now
        if not set(parts) <= NOT_NEEDED:
            await calm(load, back, within)
        await loaded.aclose()
        assert load.share_ok(0, broken - 0.5) == 1.0, load.failures()
        assert recovery(load, back) <= within, load.failures()
        check(load, desk, parts, broken, back)
        assert await desk.whole_within(within) < within
        order = queued or await customers.create()
        await customers.check(await asyncio.wait_for(order.end(), WORKED_OFF_S))


def check(load, desk, parts, broken, back):
    """Checks what came of turns while parts were broken."""
    assert "INTERNAL" not in desk.reasons
    if set(parts) <= NOT_NEEDED:
        assert load.share_ok() == 1.0, load.failures()
        assert set(desk.degraded) == {"retrieval" if part == "milvus" else part for part in parts} - {"worker"}
        assert load.slowest() < SLOWEST_S
        return
    noticed = [each for each in load.between(broken - 0.5) if each.code != OK or each.seconds > (back - broken) / 2]
    assert noticed, "nobody noticed: the fault was none"
    for outcome in load.outcomes:
        assert outcome.code == OK or fails_well(outcome.error, parts), f"{outcome} {load.tenths()}"


def fails_well(error, parts):
    """Whether a run that failed, or a call that was cut off, says that trying again helps."""
    if isinstance(error, Unavailable):
        return bool(error.retry_after)
    codes = set().union({grpc.StatusCode.UNAVAILABLE}, *(ALSO.get(part, ()) for part in parts))
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in codes


@long
async def test_stopped_orchestrators_are_given_up_within_four_seconds_and_then_calls_fail_at_once(rig, bare):
    async with face(rig.stack) as user:
        with contextlib.ExitStack() as still:
            for name in rig.replicas("orchestrator"):
                still.enter_context(frozen(rig.pid(name)))
            began = time.monotonic()
            code, seconds = None, 1.0
            while seconds > FAST_S:
                ejected = time.monotonic() - began
                assert ejected < EJECTED_S, "it is not given up"
                seconds, code = await _asked(user.stub, user, 0.2)
            for _ in range(20):
                assert (code, seconds < FAST_S) == (grpc.StatusCode.UNAVAILABLE, True)
                seconds, code = await _asked(user.stub, user, 1.0)
            # The control: with Envoy's default it goes on asking what it knows to be dead.
            seconds, code = await _asked(bare, user, 1.0)
            assert (code, seconds > 0.9) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
        await until(lambda: _works(user), 10)


async def _asked(stub, user: Face, timeout):
    began = time.monotonic()
    try:
        await stub.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=user.metadata, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        return time.monotonic() - began, error.code()
    return time.monotonic() - began, grpc.StatusCode.OK


async def _works(user):
    """Whether calls work, and not by chance: the checks that were late for the stop may yet say otherwise."""
    for _ in range(20):
        if (await _asked(user.stub, user, 1.0))[1] is not grpc.StatusCode.OK:
            return False
        await asyncio.sleep(0.1)
    return True
