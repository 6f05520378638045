"""What blocks the event loop of a service shows in its metrics."""

import asyncio
import time

import httpx

from services.kit.lag import watch_lag
from tests.support.process import running


async def seen_lags(during):
    lags = []
    stop = watch_lag(lags.append, 0.01)
    await during()
    stop()
    count = len(lags)
    await asyncio.sleep(0.05)
    assert len(lags) == count
    return lags


async def test_a_call_that_blocks_is_seen():
    async def block():
        await asyncio.sleep(0.05)
        time.sleep(0.2)  # noqa: ASYNC251 - the very thing to be seen
        await asyncio.sleep(0.05)

    lags = await seen_lags(block)
    assert 0.15 < max(lags) < 5.0


async def test_control_waiting_is_not_blocking():
    lags = await seen_lags(lambda: asyncio.sleep(0.3))
    assert len(lags) > 3
    assert sorted(lags)[len(lags) // 2] < 0.1  # what the machine is late, and nobody waited for


async def test_every_process_tells(tmp_path):
    async with running("tests.support.process", tmp_path, {}) as process, httpx.AsyncClient(trust_env=False) as http:
        async with asyncio.timeout(20):
            while True:
                try:
                    lines = (await http.get(process.metrics_url)).text.splitlines()
                except httpx.TransportError:
                    lines = []
                counts = [line for line in lines if line.startswith("myriad_loop_lag_seconds_count")]
                if counts and float(counts[0].split()[1]) > 5:
                    break
                await asyncio.sleep(0.05)
    assert any(line.startswith('myriad_calls_in_flight{kind="calls"} 0') for line in lines)
