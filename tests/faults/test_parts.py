"""Each part dies or stands still under load: what can go on without it does and says so, the rest is UNAVAILABLE."""

import asyncio
import contextlib
import os
import signal
import time

import grpc
import pytest

from myriad.orchestrator.v1 import sessions_pb2
from tests.faults.rig import calm, desk_turn, recovery, whole
from tests.support.cgroup import frozen
from tests.support.client import Face, face, kinds
from tests.support.load import OK, steady
from tests.support.waiting import until

HELPERS = ("nlu", "retrieval", "toolexec")
"""A turn goes on without these."""

RECOVERED_S = 3.0
"""After a part is back: a channel waits up to a second between attempts, a breaker two before it tries."""

SLOWEST_S = 2.0 + 3.0 + 2.0 + 1.0
"""A turn that waits in vain for nlu, retrieval and toolexec."""

EJECTED_S = 4.0 + 1.0
"""Two failed checks take at most 3.5 s; the rest is for a machine that others use."""

FAST_S = 0.05
"""A call that nobody can answer fails within this time."""

RESUMABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
"""What a stream that lost its server ends with; INTERNAL is what Envoy makes of a reset."""

long = pytest.mark.chaos


class Desk:
    """Turns that need every part, and what each of them did without."""

    def __init__(self, user):
        self.user = user
        self.degraded = {}

    async def turn(self, _number):
        events = await desk_turn(self.user)
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


def components(parts):
    """What a turn says it did without."""
    return {"retrieval" if part == "milvus" else part for part in parts}


@pytest.mark.parametrize(
    ("rps", "parts"),
    [(5, (*HELPERS, "milvus")), *(pytest.param(20, (part,), marks=long) for part in (*HELPERS, "milvus"))],
)
async def test_turns_complete_while_helpers_are_killed_and_are_whole_when_they_are_back(rig, user, rps, parts):
    desk = Desk(user)
    restarts = {part: rig.part(part).restarts for part in parts}
    async with steady(rps, desk.turn) as load:
        await asyncio.sleep(1)
        assert desk.degraded == {}  # the control
        for part in parts:
            os.kill(rig.pid(part), signal.SIGKILL)
        await asyncio.gather(*(rig.ready_again(part, restarts[part]) for part in parts))
    assert load.share_ok() == 1.0, load.failures()
    assert set(desk.degraded) == components(parts)
    assert "INTERNAL" not in desk.reasons
    assert load.slowest() < SLOWEST_S
    assert await desk.whole_within(RECOVERED_S) < RECOVERED_S


@pytest.mark.parametrize("parts", [HELPERS, *(pytest.param((part,), marks=long) for part in HELPERS)])
async def test_turns_complete_while_helpers_stand_still_and_are_whole_when_they_go_on(rig, user, parts):
    desk = Desk(user)
    with contextlib.ExitStack() as still:
        for part in parts:
            still.enter_context(frozen(rig.pid(part)))
        async with steady(2, desk.turn) as load:
            await asyncio.sleep(2)
    assert load.share_ok() == 1.0, load.failures()
    assert set(desk.degraded) == set(parts)
    assert "INTERNAL" not in desk.reasons
    assert load.slowest() < SLOWEST_S
    assert await desk.whole_within(RECOVERED_S) < RECOVERED_S


@pytest.mark.parametrize(
    ("rps", "part"),
    [(10, "memory"), pytest.param(10, "orchestrator", marks=long), pytest.param(10, "envoy", marks=long)],
)
async def test_what_no_turn_goes_without_is_unavailable_until_it_is_back(rig, rps, part):
    replicas = rig.replicas(part)
    restarts = {name: rig.part(name).restarts for name in replicas}
    async with face(rig.stack) as user, steady(rps, Desk(user).turn) as load:
        await asyncio.sleep(1)
        killed = load.now
        for name in replicas:
            os.kill(rig.pid(name), signal.SIGKILL)
        await asyncio.gather(*(rig.ready_again(name, restarts[name]) for name in replicas))
        back = load.now
        await calm(load, back, RECOVERED_S)
    assert load.share_ok(0, killed - 0.5) == 1.0, load.failures()
    assert recovery(load, back) <= RECOVERED_S, load.failures()
    for outcome in load.outcomes:
        if outcome.code != OK:
            assert _ends_well(outcome.error), f"{outcome} {load.tenths()}"


def _ends_well(error):
    """Whether a call that was cut off, or a run, says that trying again helps."""
    if isinstance(error, AssertionError):  # a run that failed, and says why in its last event
        return "UNAVAILABLE" in str(error)
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in RESUMABLE


@long
async def test_stopped_orchestrators_are_given_up_within_four_seconds_and_then_calls_fail_at_once(rig, bare):
    async with face(rig.stack) as user:
        with contextlib.ExitStack() as stopped:
            for name in rig.replicas("orchestrator"):
                stopped.enter_context(frozen(rig.pid(name)))
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
