"""Tools in the background, with a real store, a real endpoint, and processes that are killed."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from myriad.toolexec.v1 import toolexec_pb2
from services.kit.errors import ApprovalInvalid
from tests.support.approvals import Approvals
from tests.support.http_server import HttpServer, answer, running_http_server, silent
from tests.support.toolexec import call_key
from tests.support.toolexec_service import Stack, a_stack
from tests.support.valkey import running_valkey

IDLE_S = 1.0


def slow(name: str, effect: str) -> dict:
    call = {"method": "HTTP_METHOD_POST", "endpoint": "crm", "url": "/slow", "idempotencyKey": True}
    return {
        "name": name,
        "description": "d",
        "sideEffect": f"SIDE_EFFECT_{effect}",
        "background": True,
        "timeout": "600s",
        "parameters": {"type": "object"},
        "http": call,
    }


TOOLS = [slow("report", "READ"), slow("book", "IDEMPOTENT"), slow("pay", "SIDE_EFFECT")]


@pytest_asyncio.fixture(scope="module")
async def valkey(tmp_path_factory) -> AsyncIterator[str]:
    async with running_valkey(tmp_path_factory.mktemp("background")) as url:
        yield url


@pytest_asyncio.fixture
async def crm() -> AsyncIterator[HttpServer]:
    async with running_http_server() as server:
        server.answers["/slow"] = silent
        yield server


@pytest_asyncio.fixture
async def stack(valkey, crm) -> AsyncIterator[Stack]:
    async with a_stack(valkey, TOOLS, crm.url(), IDLE_S=str(IDLE_S)) as made:
        await made.park(1, "c1")
        yield made


async def told(stack: Stack, seconds: float = 5.0) -> dict:
    """What the run was told, once it was."""
    async with asyncio.timeout(seconds):
        while (found := await stack.told()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def test_a_slow_tool_holds_nothing_and_its_result_wakes_the_run(stack, crm):
    crm.answers["/slow"] = answer(200, b'{"rows": 7}')
    async with stack.here() as replica:
        begun = await replica.start(call_key("report"))
        assert begun.state == toolexec_pb2.EXECUTION_STATE_RUNNING
        assert await told(stack) == {
            "tool_call_id": "c1",
            "result_json": '{"rows":7}',
            "is_error": False,
            "reason": "",
        }
        found = await replica.get(call_key("report"))
    assert (found.state, found.response.result_json) == (toolexec_pb2.EXECUTION_STATE_DONE, '{"rows":7}')


@pytest.mark.alone
async def test_what_runs_in_another_process_is_cut_within_half_a_second(stack, crm, tmp_path):
    async with stack.elsewhere(tmp_path) as (there, _process):
        await there.ready()
        await there.start(call_key("report"))
        await crm.until_asked(1)
        async with stack.here() as here:
            began = asyncio.get_running_loop().time()
            await here.cancel(call_key("report"))
            await crm.until_idle(2)
            took = asyncio.get_running_loop().time() - began
            assert (await told(stack))["reason"] == "EXECUTION_CANCELLED"
            found = await here.get(call_key("report"))
    assert took < 0.5
    assert found.state == toolexec_pb2.EXECUTION_STATE_CANCELLED


@pytest.mark.alone
@pytest.mark.parametrize("tool", ["report", "book"])
async def test_what_a_killed_process_ran_is_taken_over_within_twice_the_idle_time(stack, crm, tmp_path, tool):
    async with stack.elsewhere(tmp_path) as (there, process):
        await there.ready()
        await there.start(call_key(tool))
        await crm.until_asked(1)
        async with stack.here():
            process.process.kill()
            killed = asyncio.get_running_loop().time()
            crm.answers["/slow"] = answer(200, b"1")
            assert (await told(stack))["result_json"] == "1"
            took = asyncio.get_running_loop().time() - killed
    assert took < 2 * IDLE_S
    assert len(crm.requests) == 2
    assert len({request.headers["idempotency-key"] for request in crm.requests}) == 1


async def test_what_a_killed_process_ran_with_side_effects_is_never_begun_again(stack, crm, tmp_path):
    token = await Approvals(stack.redis).put(stack.ann, call_key("pay"))
    async with stack.elsewhere(tmp_path) as (there, process):
        await there.ready()
        await there.start(call_key("pay"), approval=token)
        await crm.until_asked(1)
        async with stack.here() as here:
            process.process.kill()
            response = await told(stack)
            assert (response["is_error"], response["reason"]) == (True, "EXECUTION_INTERRUPTED")
            again = await here.start(call_key("pay"), approval=token)
            assert (again.state, again.reason) == (toolexec_pb2.EXECUTION_STATE_FAILED, "EXECUTION_INTERRUPTED")
            with pytest.raises(ApprovalInvalid):
                await here.start(call_key("pay", step=2), approval=token)
    assert len(crm.requests) == 1


async def test_what_a_stopping_process_ran_is_handed_over(stack, crm, tmp_path):
    async with stack.elsewhere(tmp_path) as (there, process):
        await there.ready()
        await there.start(call_key("book"))
        await crm.until_asked(1)
        process.process.terminate()
        async with stack.here():
            crm.answers["/slow"] = answer(200, b"1")
            assert (await told(stack, 15))["result_json"] == "1"
        assert await process.ended(15) == 0
