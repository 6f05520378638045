"""Stopping is done to its end, whoever loses patience."""

import asyncio
import io

import pytest

from services.dev.show import LastingOutput
from services.dev.stack import _to_its_end


async def test_cancelling_does_not_cut_the_stop_short() -> None:
    done = []

    async def stop() -> None:
        for step in range(3):
            await asyncio.sleep(0.01)
            done.append(step)

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await _to_its_end(stop())

    task = asyncio.create_task(run())
    for _ in range(3):
        await asyncio.sleep(0.005)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [0, 1, 2]


async def test_stop_that_fails_says_so() -> None:
    async def stop() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await _to_its_end(stop())


def test_output_that_is_gone_does_not_stop_who_writes() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

    output = LastingOutput(Gone())
    assert output.write("hello") == 5
    output.flush()
    assert not output.isatty()
