"""Everyone hangs up at once, or says stop, while everything is traced to a collector that never answers: all stops."""

import asyncio
import time
import uuid
from contextlib import AsyncExitStack

import grpc
import pytest

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from tests.faults.rig import IN_FLIGHT
from tests.support.client import kinds, sim
from tests.support.load import percentile
from tests.support.metrics import sum_at
from tests.support.waiting import until

A_CONNECTION = 50
"""Streams over one connection; Envoy takes a hundred."""

WORK_FOR_IT = ("nlu", "retrieval", "toolexec")
"""What else works for a turn. Memory takes what was said, when all that has stopped."""

LOOK_S = 0.05
"""To look takes CPU of those who are looked at."""

AT_ONCE = 20
"""Calls of one tool; more than 32 would be refused."""

CUT_S = 0.5
PAUSE_S = 0.02
TALK = sim(text="on and ", forever=True, delay_ms=2000)


async def speaks(call):
    """The run's id once the model speaks."""
    while (event := await call.read()) is not grpc.aio.EOF:
        if event.WhichOneof("event") == "text_delta":
            return event.run_id
    raise AssertionError("it ended before it spoke")


def request_of(session):
    """A turn that talks on and on."""
    return run_pb2.RunTurnRequest(session_id=session, input=TALK)


async def under_way(rig):
    """Scripts of the model that run, and streams of the orchestrator."""
    addresses = [rig.stack.address(f"{part}_metrics") for part in rig.replicas("orchestrator")]
    scripts, *streams = await asyncio.gather(
        sum_at(rig.stack.address("triton_metrics"), "myriad_sim_running"),
        *(sum_at(address, IN_FLIGHT) for address in addresses),
    )
    return scripts, sum(streams)


class Waiting:
    """A turn of `clerk` whose tool never answers."""

    def __init__(self, item, call, run_id):
        self.item, self.run_id, self._call = item, run_id, call

    @classmethod
    async def begin(cls, user):
        item = uuid.uuid4().hex
        text = sim(tool_calls=[{"name": "wait", "arguments": {"item": item}}], then={"text": "It came."})
        call = user.run(await user.session("clerk"), text)
        return cls(item, call, (await call.read()).run_id)

    async def rest(self):
        events = []
        while (event := await self._call.read()) is not grpc.aio.EOF:
            events.append(event)
        return events


@pytest.mark.parametrize(
    ("users", "within"),
    [(100, 2.0), pytest.param(100, 0.5, marks=pytest.mark.chaos), pytest.param(1000, 0.5, marks=pytest.mark.chaos)],
)
async def test_all_that_works_for_those_who_hang_up_stops(rig, user, users, within):
    async with AsyncExitStack() as open_channels:
        stubs = []
        for _ in range(0, users, A_CONNECTION):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(rig.stack.address("envoy"), options=options)
            stubs.append(
                orchestrator_pb2_grpc.OrchestratorServiceStub(await open_channels.enter_async_context(channel))
            )
        calls = []
        try:
            for stub in stubs:  # not all at once: what is too much at once is refused
                sessions = await asyncio.gather(*(user.session("player") for _ in range(A_CONNECTION)))
                begun = [stub.RunTurn(request_of(session), metadata=user.metadata, timeout=120) for session in sessions]
                calls += begun
                await asyncio.gather(*(speaks(call) for call in begun))
            assert await under_way(rig) == (users, users)  # the control
        finally:
            for call in calls:
                call.cancel()
        began = time.monotonic()
        while any(left := await under_way(rig)):
            assert time.monotonic() - began < within, left
            await asyncio.sleep(LOOK_S)
        assert await rig.idle(*WORK_FOR_IT)


@pytest.mark.parametrize("calls", [10, pytest.param(100, marks=pytest.mark.chaos)])
async def test_a_tool_call_under_way_is_cut_when_its_run_is_told_to_stop(rig, user, calls):
    clock, waited = asyncio.get_running_loop().time, rig.ledger.waited
    seconds = []

    async def stop(index, call):
        await asyncio.sleep(index * PAUSE_S)
        gone = waited[call.item]
        assert not gone.done()  # the control: it goes on until then
        since = clock()
        await user.ask("CancelRun", run_id=call.run_id)
        return await asyncio.wait_for(gone, 5) - since

    for _ in range(0, calls, AT_ONCE):
        made = [await Waiting.begin(user) for _ in range(min(calls, AT_ONCE))]
        await until(lambda made=made: all(each.item in waited for each in made), 10)
        seconds += await asyncio.gather(*(stop(number, each) for number, each in enumerate(made)))
        for each in made:
            assert kinds(await each.rest())[-1] == "cancelled"
    assert len(seconds) == calls
    assert percentile(seconds, 0.99) <= CUT_S, sorted(seconds)[-5:]
