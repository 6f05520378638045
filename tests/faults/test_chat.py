"""`myriad chat` on a terminal, whose orchestrator is killed in the middle of what the agent says."""

import asyncio
import os
import signal
import uuid

from services.kit.failpoints import Point
from tests.faults.orders import ANSWER, FIRST, WORDS, Order, asked
from tests.support.command_line import CommandLine, on_a_terminal

DELAY_MS = 150


async def test_a_chat_goes_on_when_the_orchestrator_is_killed_and_prints_the_answer_that_is_stored(rig, customers):
    item = uuid.uuid4().hex
    myriad = CommandLine(rig.stack.folder.path)
    with on_a_terminal(*myriad.command("chat", "--agent", "clerk")) as terminal:

        async def shown(wanted):
            return await asyncio.to_thread(terminal.read_until, wanted)

        await shown("you>")
        rig.points.arm(f"{Point.AFTER_EFFECT}=delay:0.1")
        terminal.type(asked(item, DELAY_MS) + "\n")
        pid = await rig.points.happened(20)
        (name,) = (name for name, state in rig.stack.state.parts.items() if state.pid == pid)
        restarts = rig.part(name).restarts
        cut = await shown(WORDS[5])
        os.kill(pid, signal.SIGKILL)
        printed = await shown("you>")
        terminal.type("/quit\n")
        await shown("--session ")
        session = (await shown("\n")).strip()
    order = Order(item, asked(item, DELAY_MS), session)
    order.seen.run_id = f"{session}.1"
    for event in await customers.watched(order):
        order.seen.add(event)
    await customers.check(order)
    assert "restarted" in [event.WhichOneof("event") for event in order.seen.events], "it was killed too late"
    assert FIRST.strip() in cut
    again = printed.rpartition("begins again")[2].partition("\n")[2].split()
    stored = order.seen.events[-1].completed.answer
    assert stored == ANSWER
    assert FIRST.split() + again[: len(WORDS)] == stored.split()
    await rig.ready_again(name, restarts)
