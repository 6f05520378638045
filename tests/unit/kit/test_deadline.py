"""When a call is ended that takes too long."""

import asyncio

import pytest

from myriad.common.v1 import common_pb2
from myriad.orchestrator.v1 import run_pb2
from services.kit.call import Call
from services.kit.chain import Method
from services.kit.contracts import contract
from services.kit.errors import DeadlineExceeded
from services.kit.interceptors.deadline import deadline
from services.kit.topology import SERVICES

METHODS = contract(SERVICES["orchestrator"].proto_service).methods_by_name


@pytest.mark.parametrize(("name", "early"), [("GetRun", 0.0), ("RunTurn", 0.05)])
@pytest.mark.parametrize("asked", [0.5, None], ids=["the caller's", "the service's own"])
async def test_a_stream_is_ended_just_before_its_deadline_and_a_call_with_one_reply_at_it(name, early, asked):
    method = Method(name, METHODS[name], run_pb2.GetRunRequest, METHODS[name].server_streaming, common_pb2.Access())
    loop, took = asyncio.get_running_loop(), []

    async def works_on(call):
        assert began + 0.5 <= call.deadline <= loop.time() + 0.5  # what it calls may take all of it
        await asyncio.sleep(60)

    for _ in range(3):  # a machine at work is late now and then, and never early
        began = loop.time()
        call = Call(name, {}, None if asked is None else began + asked, "test")
        with pytest.raises(DeadlineExceeded):
            await deadline(0.5, 0.5)(call, method, works_on)
        took.append(loop.time() - began)
    assert 0.5 - early - 0.01 <= min(took) < (0.5 if early else 0.6)
