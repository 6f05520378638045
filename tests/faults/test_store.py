"""The store stands still, is killed, or is asked by three hundred at once: calls end in time, and once."""

import asyncio
import os
import signal
import time
from contextlib import ExitStack

import grpc
import pytest
import redis.asyncio as stock
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.exceptions import MaxConnectionsError

from myriad.orchestrator.v1 import run_pb2, sessions_pb2
from services.kit.errors import DeadlineExceeded, StoreUnavailable, Unavailable
from services.kit.serve import LIVENESS
from services.kit.status import from_proto, from_rpc_error
from tests.faults.rig import calm, recovery
from tests.support.cgroup import frozen
from tests.support.client import kinds
from tests.support.load import OK, steady
from tests.support.proxy import running_proxy
from tests.support.waiting import until

BACK_S = 5.0
"""After the store is back, all is normal within this time."""

NOTICED_S = 4.0
"""Readiness is looked at each second, and a look takes two seconds at most; the rest is for a busy machine."""

LATE_S = 0.1
"""How long after its deadline a call may end."""

DEADLINES_S = (0.5, 1.0, 2.0)


class Attempts:
    """How often a store behind a proxy was asked to write since now: in new connections or in old ones."""

    def __init__(self, proxy, word=b"FCALL"):
        self._proxy, self._word, self._before = proxy, word, proxy.connections
        proxy.asking.count(word)

    @property
    def count(self):
        return max(self._proxy.asking.marks[self._word], self._proxy.connections - self._before)


@pytest.fixture
def attempts(alone):
    """The line to the store is a black hole."""
    alone.to_store.stall()
    return Attempts(alone.to_store)


async def ended(call):
    """How long a call took, and what it raised."""
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return time.monotonic() - began, raised.value


@pytest.mark.parametrize("deadline", [0.2, 0.6, 1.0])
async def test_a_store_that_stands_still_costs_a_call_its_deadline_and_is_asked_once(alone, attempts, deadline):
    calls = await asyncio.gather(*(ended(alone.create(deadline)) for _ in range(20)))
    assert {error.code() for _, error in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert max(seconds for seconds, _ in calls) < deadline + LATE_S
    assert attempts.count <= 20 * 1.1


async def test_without_a_near_deadline_the_store_has_its_own_and_its_end_says_when_to_try_again(alone, attempts):
    calls = await asyncio.gather(*(ended(alone.create(10.0)) for _ in range(20)))
    for seconds, raised in calls:
        error = from_rpc_error(raised, "memory")
        assert isinstance(error, StoreUnavailable)
        assert error.retry_after
        assert seconds < 1.5 + LATE_S
    assert attempts.count <= 20 * 1.1


async def test_control_the_stock_client_asks_many_times(alone):
    async with running_proxy(alone.store.url) as (proxy, url):
        client = stock.Redis(port=int(url.rpartition(":")[2]), socket_timeout=0.05)
        await client.ping()
        attempts = Attempts(proxy, b"INCR")
        proxy.stall()
        asking = asyncio.create_task(client.incr("counter"))

        async def asked_many_times():
            return attempts.count > 5

        await until(asked_many_times, 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await client.aclose(close_connection_pool=True)


async def test_control_the_stock_pool_fails_where_ours_waits(alone):
    client = stock.Redis.from_url(alone.store.url, max_connections=100)
    replies = await asyncio.gather(*(client.get("nothing") for _ in range(300)), return_exceptions=True)
    await client.aclose(close_connection_pool=True)
    assert any(isinstance(reply, MaxConnectionsError) for reply in replies)


async def test_three_hundred_calls_at_once_wait_for_a_connection(alone):
    session = await alone.create()
    await asyncio.gather(*(alone.read(session) for _ in range(300)))
    assert alone.to_store.open <= 33  # the readiness check may have one


def late(line):
    line.asking.latency_s = line.answering.latency_s = 0.02


def in_pieces(line):
    line.asking.slice_bytes = line.answering.slice_bytes = 1


def cut_short(line):
    line.answering.cut_after = 60
    line.reset()


def half_closed(line):
    line.answering.half_close_after = 60
    line.reset()


def refusing(line):
    line.refusing = True
    line.reset()


@pytest.mark.parametrize(
    ("harm", "all_answered"),
    [(late, True), (in_pieces, True), (cut_short, False), (half_closed, False), (refusing, False)],
)
async def test_a_bad_line_to_the_store_is_slow_or_unavailable_and_never_wrong(alone, harm, all_answered):
    session = await alone.create()
    await asyncio.gather(*(alone.read(session) for _ in range(20)))
    harm(alone.to_store)
    ends = await asyncio.gather(*(alone.read(session) for _ in range(20)), return_exceptions=True)
    failed = [end for end in ends if end is not None]
    assert bool(failed) is not all_answered
    for end in failed:
        assert isinstance(from_rpc_error(end, "memory"), StoreUnavailable), end
    alone.to_store.resume()
    alone.to_store.reset()
    await asyncio.gather(*(alone.read(session) for _ in range(20)))


async def test_what_was_held_is_done_once_and_calls_work_at_once_when_the_store_goes_on(alone, attempts):
    names = [f"held-{deadline}-{os.getpid()}-{time.monotonic_ns()}" for deadline in range(10)]
    await asyncio.gather(*(ended(alone.create(0.3, name)) for name in names))
    alone.to_store.resume()
    began = time.monotonic()
    first = await asyncio.gather(*(alone.create(5.0, name) for name in names))
    assert time.monotonic() - began < 1.0
    assert await asyncio.gather(*(alone.create(5.0, name) for name in names)) == first


async def test_without_its_store_a_service_lives_and_is_not_ready_until_the_store_is_back(alone):
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    async with grpc.aio.insecure_channel(alone.memory.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def said(service):
            return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=1)).status

        async def is_ready(expected):
            assert await said(LIVENESS) == serving
            return await said("") == expected

        session = await alone.create()
        await until(lambda: is_ready(serving), BACK_S)
        await alone.store.stop(orderly=False)
        try:
            await until(lambda: is_ready(not_serving), NOTICED_S)
            _, raised = await ended(alone.read(session))
            error = from_rpc_error(raised, "memory")
            assert isinstance(error, StoreUnavailable)
            assert error.retry_after
        finally:
            await alone.store.start()
        await until(lambda: is_ready(serving), BACK_S)
        await alone.read(session)
    assert alone.memory.process.returncode is None


class Turns:
    """Turns of the scripted model, one session each."""

    def __init__(self, user):
        self.user = user
        self.completed = {}

    async def one(self, _number):
        session = await self.user.session("player")
        events = await self.user.turn(session, "hello")
        assert kinds(events)[-1] == "completed", str(events[-1])
        self.completed[events[0].run_id] = events


class Impatient:
    """Turns of which each call has a deadline of its own."""

    def __init__(self, user):
        self.user = user
        self.late = []
        """How much later than its deadline each call ended."""

    async def one(self, number):
        deadline = DEADLINES_S[number % len(DEADLINES_S)]
        create, run = self.user.stub.CreateSession, self.user.stub.RunTurn
        created = await self._timed(deadline, create, sessions_pb2.CreateSessionRequest(agent="player"))
        request = run_pb2.RunTurnRequest(session_id=created.session.session_id, input="hello")
        last = (await self._timed(deadline, lambda *call, **kw: listed(run(*call, **kw)), request))[-1]
        if last.HasField("failed"):
            raise from_proto(last.failed.error)

    async def _timed(self, deadline, method, request):
        began = time.monotonic()
        try:
            return await method(request, metadata=self.user.metadata, timeout=deadline)
        finally:
            self.late.append(time.monotonic() - began - deadline)


async def listed(stream):
    """All of a stream."""
    return [message async for message in stream]


def understood(load, *also):
    """Errors of a load: each of them ours, UNAVAILABLE with a time to wait, or one of those that may also be."""
    for outcome in load.outcomes:
        error = outcome.error
        if isinstance(error, grpc.aio.AioRpcError):
            error = from_rpc_error(error, "orchestrator")
        if error is not None and not isinstance(error, also):
            assert isinstance(error, Unavailable), f"{outcome} {load.tenths()}"
            assert error.retry_after, f"{outcome} {load.tenths()}"


async def test_a_killed_store_is_unavailable_for_a_while_and_has_all_that_was_answered(rig, user):
    turns = Turns(user)
    restarts = {name: state.restarts for name, state in rig.stack.state.parts.items()}
    async with steady(10, turns.one) as load:
        await asyncio.sleep(1)
        killed = load.now
        os.kill(rig.pid("valkey"), signal.SIGKILL)
        await rig.ready_again("valkey", restarts["valkey"])
        back = load.now
        await calm(load, back, BACK_S)
    assert load.share_ok(0, killed - 0.5) == 1.0, load.tenths()  # the control: without a fault nothing fails
    assert load.codes(killed, back)["UNAVAILABLE"] > 0, load.failures()
    assert recovery(load, back) <= BACK_S, load.failures()
    understood(load)
    for name, state in rig.stack.state.parts.items():
        assert state.restarts == restarts[name] + (name == "valkey"), name
    for run_id, events in turns.completed.items():
        assert await user.watched(run_id) == events


@pytest.mark.parametrize(("rps", "seconds"), [(10, 2), pytest.param(50, 5, marks=pytest.mark.chaos)])
async def test_a_store_that_stands_still_under_load_costs_each_call_its_deadline_and_no_more(rig, user, rps, seconds):
    calls = Impatient(user)
    with ExitStack() as still:
        async with steady(rps, calls.one) as load:
            await asyncio.sleep(1)
            stopped = load.now
            still.enter_context(frozen(rig.pid("valkey")))
            await asyncio.sleep(seconds)
        took = await until(lambda: rig.idle("orchestrator", "memory"), 10)
    async with steady(rps, Turns(user).one) as after:
        await calm(after, 0, BACK_S)
    assert load.share_ok(0, stopped - 0.5) == 1.0, load.failures()
    assert load.codes(stopped)[OK] == 0, load.failures()  # the control
    understood(load, DeadlineExceeded)
    assert took < LATE_S
    assert max(calls.late) < LATE_S + load.stood, load.failures()
    understood(after)
    assert recovery(after, 0) <= BACK_S, after.failures()
