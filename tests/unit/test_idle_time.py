"""How unit tests wait: at once, and by every clock as long as they would have."""

import asyncio
import time

import pytest


async def test_who_sleeps_a_minute_wakes_at_once_a_minute_later_by_every_clock():
    loop, worked = asyncio.get_running_loop(), time.process_time()
    clocks = (time.time, time.monotonic, loop.time, lambda: time.time_ns() / 1e9)
    before = [clock() for clock in clocks]
    await asyncio.sleep(60)
    passed = [clock() - since for clock, since in zip(clocks, before, strict=True)]
    assert all(60 <= each < 90 for each in passed), passed
    assert time.process_time() - worked < 1


async def test_what_is_due_first_comes_first():
    came = []

    async def come(after):
        await asyncio.sleep(after)
        came.append(after)

    await asyncio.gather(*map(come, (30.0, 0.01, 3600.0, 5.0)))
    assert came == [0.01, 5.0, 30.0, 3600.0]


async def test_the_time_of_a_thread_is_not_idle():
    for _ in range(20):
        async with asyncio.timeout(60):
            await asyncio.to_thread(time.sleep, 0.002)


async def test_the_time_of_another_process_is_not_idle():
    async with asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec("sleep", "0.05")
        assert await process.wait() == 0


async def test_a_deadline_that_passes_cuts_what_takes_longer():
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.sleep(61)
    assert time.monotonic() - before >= 60
