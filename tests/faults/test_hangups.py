"""Everyone hangs up at once, while everything is traced to a collector that never answers: all stops."""

import asyncio
import time
from contextlib import AsyncExitStack

import grpc
import pytest

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from tests.faults.rig import IN_FLIGHT
from tests.support.client import sim
from tests.support.metrics import sum_at

A_CONNECTION = 50
"""Streams over one connection; Envoy takes a hundred."""

WORK_FOR_IT = ("nlu", "retrieval", "toolexec")
"""What else works for a turn. Memory takes what was said, when all that has stopped."""

LOOK_S = 0.05
"""To look takes CPU of those who are looked at."""

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
