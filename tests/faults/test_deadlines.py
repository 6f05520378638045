"""A caller's deadline through four hops: each has less time than the one before, and nobody works past it."""

import asyncio
import time

import grpc
import pytest

from myriad.orchestrator.v1 import run_pb2, sessions_pb2
from tests.faults.rig import desk_turn, whole
from tests.support.cgroup import frozen
from tests.support.client import metric
from tests.support.waiting import until

DEADLINE_S = 0.5
LATE_S = 0.1
"""How long after the deadline anything may still work."""

MARGIN_S = 0.02
"""So much less time than it has a service gives to what it calls."""

ORCHESTRATOR = "/myriad.orchestrator.v1.OrchestratorService/CreateSession"
MEMORY = "/myriad.memory.v1.MemoryService/CreateSession"
INFERRED = "nv_inference_request_success"
SEARCHED = b"myriad_chunks"
"""What every search names."""

SOON_S = 0.5
"""A part that goes on has done within this time what it was asked before."""


def spent(before, after, method):
    """Seconds that the calls of a method took, each, between two looks."""
    count = after.sum("myriad_rpc_seconds_count", method=method) - before.sum("myriad_rpc_seconds_count", method=method)
    seconds = after.sum("myriad_rpc_seconds_sum", method=method) - before.sum("myriad_rpc_seconds_sum", method=method)
    assert count, f"{method} was not called, or has not ended"
    return seconds / count


async def test_each_hop_of_a_call_has_less_time_than_the_one_before(rig, user):
    await user.session("player")
    rig.links["memory", "valkey"].stall()
    before = [await rig.metrics(service) for service in ("orchestrator", "memory")]
    began = time.monotonic()
    request = sessions_pb2.CreateSessionRequest(agent="player")
    calls = [user.stub.CreateSession(request, metadata=user.metadata, timeout=DEADLINE_S) for _ in range(10)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    waited = time.monotonic() - began
    assert {end.code() for end in ends} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert waited < DEADLINE_S + LATE_S
    await until(lambda: rig.idle("orchestrator", "memory"), LATE_S)
    after = [await rig.metrics(service) for service in ("orchestrator", "memory")]
    at_orchestrator = spent(before[0], after[0], ORCHESTRATOR)
    at_memory = spent(before[1], after[1], MEMORY)
    # Both end when memory's time is over: the rest is for the way back.
    assert at_memory < DEADLINE_S - MARGIN_S / 2
    assert at_orchestrator < waited
    assert at_memory > DEADLINE_S / 2  # it had worked until then: the control


@pytest.mark.parametrize("part", ["triton", "milvus"])
async def test_nothing_works_for_a_turn_past_its_callers_deadline(rig, user, part):
    helpers = ("orchestrator", "nlu", "retrieval", "toolexec", "memory")
    session = await user.session("desk")
    searches = rig.links["retrieval", "milvus"].asking
    searches.count(SEARCHED)
    inferred = await metric(rig.stack, INFERRED)
    assert whole(await desk_turn(user))
    inferred, before = await metric(rig.stack, INFERRED), inferred
    assert inferred > before  # the control
    assert searches.marks[SEARCHED] > 0
    with frozen(rig.pid(part)):
        began = time.monotonic()
        request = run_pb2.RunTurnRequest(session_id=session, input="where is my parcel")
        call = user.stub.RunTurn(request, metadata=user.metadata, timeout=DEADLINE_S)
        await asyncio.sleep(DEADLINE_S * 0.6)
        assert not await rig.idle(*helpers)  # the control
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in call:
                pass
        # Not INTERNAL, which is what Envoy makes of it where its own clock is first: the service is before it.
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        left_s = began + DEADLINE_S + LATE_S - time.monotonic()
        assert left_s > 0
        await until(lambda: rig.idle(*helpers), left_s)
        searched = searches.marks[SEARCHED]
        if part != "triton":
            inferred = await metric(rig.stack, INFERRED)
    await asyncio.sleep(SOON_S)
    assert await metric(rig.stack, INFERRED) == inferred
    assert searches.marks[SEARCHED] == searched
