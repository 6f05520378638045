"""An approved call whose process is killed in its middle is made by nobody again, until a person says so."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.kit.errors import ApprovalInvalid, ExecutionInProgress
from services.kit.keys import SessionKeys
from tests.support.approvals import Approvals
from tests.support.http_server import HttpServer, answer, running_http_server, silent
from tests.support.toolexec import call_key
from tests.support.toolexec_service import Stack, a_stack
from tests.support.valkey import running_valkey

REFUND = {
    "name": "refund",
    "description": "d",
    "sideEffect": "SIDE_EFFECT_SIDE_EFFECT",
    "parameters": {"type": "object"},
    "http": {"method": "HTTP_METHOD_POST", "endpoint": "crm", "url": "/refunds", "idempotencyKey": True},
}
KEY = call_key("refund")


@pytest_asyncio.fixture
async def crm() -> AsyncIterator[HttpServer]:
    async with running_http_server() as server:
        server.answers["/refunds"] = silent
        yield server


@pytest_asyncio.fixture
async def stack(tmp_path, crm) -> AsyncIterator[Stack]:
    async with running_valkey(tmp_path / "valkey") as url, a_stack(url, [REFUND], crm.url()) as made:
        yield made


async def test_a_call_whose_process_was_killed_is_never_begun_again_under_the_same_approval(stack, crm, tmp_path):
    approvals = Approvals(stack.redis)
    token = await approvals.put(stack.ann, KEY)
    async with stack.elsewhere(tmp_path) as (there, process), stack.here() as here:
        await there.ready()
        call = asyncio.create_task(there.execute(KEY, approval=token))
        await crm.until_asked(1)
        process.process.kill()
        await asyncio.gather(call, return_exceptions=True)
        crm.answers["/refunds"] = answer(200, b"1")
        with pytest.raises(ExecutionInProgress):
            await here.execute(KEY, approval=token)
        held = SessionKeys(stack.ann, "s1").tool_call(1, "ann", "refund", KEY.idempotency_key)
        assert 0 < await stack.redis.execute("PTTL", held) <= 15_000
        await stack.redis.execute("PEXPIRE", held, 1)  # fifteen seconds pass
        await asyncio.sleep(0.01)
        with pytest.raises(ApprovalInvalid):
            await here.execute(KEY, approval=token)
        assert len(crm.requests) == 1
        again = await here.execute(KEY, approval=await approvals.put(stack.ann, KEY, "t2"))
    assert again.result_json == "1"
    assert len({request.headers["idempotency-key"] for request in crm.requests}) == 1
