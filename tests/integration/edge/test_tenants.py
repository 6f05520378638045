"""A tenant that sends too much is told so, and harms no other."""

import asyncio
import time
from collections import Counter

import grpc
import httpx
import pytest

from myriad.orchestrator.v1 import run_pb2
from services.kit import errors, status
from tests.integration.edge.guarded import RPS, Guarded

PATH = "/v1/runs/s.1"


async def burst(guarded: Guarded, tenant: str, number: int) -> list[httpx.Response]:
    """So many requests of a tenant, as fast as can be, and so few at once that none waits for longer than it may."""
    headers, at_once = guarded.sent(tenant=tenant), asyncio.Semaphore(20)

    async def ask() -> httpx.Response:
        async with at_once:
            return await guarded.edge.http.get(PATH, headers=headers)

    return await asyncio.gather(*(ask() for _ in range(number)))


@pytest.mark.alone
async def test_what_is_over_the_limit_is_refused_with_a_time_to_wait_and_other_tenants_are_served(
    guarded: Guarded,
) -> None:
    began = time.monotonic()
    loud, quiet = await asyncio.gather(burst(guarded, "loud", 4 * RPS), burst(guarded, "quiet", RPS // 2))
    filled_again = RPS * (time.monotonic() - began)
    codes = Counter(reply.status_code for reply in loud)
    assert RPS <= codes[200] <= RPS + filled_again + 1
    assert codes[429] == 4 * RPS - codes[200] > 0
    assert {reply.status_code for reply in quiet} == {200}
    info, retry = next(reply for reply in loud if reply.status_code == 429).json()["details"]
    assert (info["reason"], retry["retry_delay"]) == ("RESOURCE_EXHAUSTED", "1s")
    assert len(guarded.edge.stub.seen) == codes[200] + RPS // 2


async def test_grpc_callers_are_told_the_same_and_served_again_later(guarded: Guarded) -> None:
    metadata = tuple(guarded.sent(tenant="loud-in-grpc").items())

    async def call() -> None:
        await guarded.edge.orchestrator.GetRun(run_pb2.GetRunRequest(run_id="s.1"), metadata=metadata, timeout=5)

    ended = await asyncio.gather(*(call() for _ in range(4 * RPS)), return_exceptions=True)
    refused = next(each for each in ended if isinstance(each, grpc.aio.AioRpcError))
    error = status.from_rpc_error(refused, "edge")
    assert isinstance(error, errors.ResourceExhausted)
    assert error.retry_after == 1
    await asyncio.sleep(0.5)
    await call()


@pytest.mark.alone
async def test_the_tenant_is_the_tokens_and_not_what_the_caller_says(guarded: Guarded) -> None:
    headers = guarded.sent(tenant="changing")
    replies = await asyncio.gather(
        *(
            guarded.edge.http.get(PATH, headers={**headers, "x-myriad-tenant": f"other-{number}"})
            for number in range(4 * RPS)
        )
    )
    assert 429 in {reply.status_code for reply in replies}
