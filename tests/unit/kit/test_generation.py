"""A stream of a model's replies: whole, or an error; never quietly cut short."""

import asyncio

import grpc
import pytest

from services.kit.errors import DeadlineExceeded, ServiceUnavailable
from services.kit.generation import Generation


class ScriptedCall:
    """Gives what it is told to: a reply, an exception, or a pause."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.cancelled = False

    async def read(self):
        step = self.steps.pop(0) if self.steps else grpc.aio.EOF
        if isinstance(step, float):
            await asyncio.sleep(step)
            return await self.read()
        if isinstance(step, BaseException):
            raise step
        return step

    def cancel(self):
        self.cancelled = True


async def test_replies_come_whole_and_in_order():
    generation = Generation(ScriptedCall(*range(200)), 5, "triton")
    assert [reply async for reply in generation.replies()] == list(range(200))
    assert generation.ended


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RuntimeError("broken")])
async def test_a_stream_that_breaks_off_is_no_complete_answer(error):
    seen = []
    with pytest.raises(ServiceUnavailable):
        async for reply in Generation(ScriptedCall("a", error), 5, "triton").replies():
            seen.append(reply)
    assert seen == ["a"]


async def test_a_stream_that_takes_too_long_is_cut():
    call = ScriptedCall("a", 60.0)
    with pytest.raises(DeadlineExceeded):
        async for _ in Generation(call, 0.05, "triton").replies():
            pass
    assert call.cancelled


async def test_a_stream_that_stays_silent_is_given_up_before_its_time():
    call = ScriptedCall(60.0)
    generation = Generation(call, 5, "triton", 0.05)
    with pytest.raises(ServiceUnavailable):
        async for _ in generation.replies():
            pass
    assert (call.cancelled, generation.silent) == (True, True)


@pytest.mark.parametrize("first_s", [0.05, 5.0])
async def test_after_its_first_reply_a_stream_has_all_of_its_time(first_s):
    seen = []
    generation = Generation(ScriptedCall("a", 0.1, "b", 60.0), 0.2, "triton", first_s)
    with pytest.raises(DeadlineExceeded):
        async for reply in generation.replies():
            seen.append(reply)
    assert (seen, generation.silent) == (["a", "b"], False)


async def test_who_has_less_time_than_a_first_reply_may_take_calls_nobody_silent():
    generation = Generation(ScriptedCall(60.0), 0.05, "triton", 5.0)
    with pytest.raises(DeadlineExceeded):
        async for _ in generation.replies():
            pass
    assert not generation.silent


async def test_leaving_reads_what_is_under_way_before_it_cancels():
    call = ScriptedCall("a", "b", "c", 60.0)
    generation = Generation(call, 5, "triton")
    replies = generation.replies()
    assert await anext(replies) == "a"
    leaving = asyncio.create_task(generation.leave())
    await asyncio.sleep(0.05)
    assert call.cancelled
    assert call.steps == []
    generation._reader.cancel()
    await leaving
