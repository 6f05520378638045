"""When what a run says is logged: in few writes, and none of it late."""

import asyncio
from typing import Any

from services.kit.call import Principal
from services.orchestrator.codec import EventCodec
from services.orchestrator.core.live import LiveRun
from services.orchestrator.domain.log import Routed, TextDelta
from services.orchestrator.domain.run import Stop, Turn

COALESCE_S = 0.1


class Log:
    """Takes entries, and knows when."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.written = asyncio.Event()

    async def append(self, *_: Any) -> Stop:
        self.times.append(asyncio.get_running_loop().time())
        self.written.set()
        return Stop.NO


def run_with(log: Log) -> LiveRun:
    turn = Turn("s.1", 1, False, "agent", ())
    return LiveRun(Principal("acme", "alice"), turn, log, EventCodec(), COALESCE_S)  # type: ignore[arg-type]


async def noted(run: LiveRun, log: Log, event: Any) -> float:
    """Seconds until an event is logged that is noted now."""
    began = asyncio.get_running_loop().time()
    log.written.clear()
    run.note(event)
    await log.written.wait()
    return log.times[-1] - began


async def test_a_piece_that_the_model_gathered_is_logged_at_once():
    log = Log()
    run = run_with(log)
    await run.append(TextDelta("first"))
    await asyncio.sleep(COALESCE_S)
    assert await noted(run, log, TextDelta("gathered")) < COALESCE_S / 2


async def test_pieces_that_come_fast_are_logged_together():
    log = Log()
    run = run_with(log)
    await run.append(TextDelta("first"))
    for _ in range(10):
        run.note(TextDelta("more"))
        await asyncio.sleep(0)
    assert await noted(run, log, TextDelta("and more")) > COALESCE_S / 2
    assert len(log.times) == 2


async def test_what_is_no_piece_of_the_answer_waits_for_company():
    log = Log()
    run = run_with(log)
    assert await noted(run, log, Routed("", "for a reason")) > COALESCE_S / 2


async def test_a_piece_takes_along_what_waits():
    log = Log()
    run = run_with(log)
    run.note(Routed("", "for a reason"))
    assert await noted(run, log, TextDelta("gathered")) < COALESCE_S / 2
    await asyncio.sleep(1.5 * COALESCE_S)
    assert len(log.times) == 1
