"""How a run ended is told also when the process was killed that should have told it."""

import os
import signal
from typing import Any

import orjson

from services.dev.login import DEVELOPER
from services.kit.failpoints import Point
from services.kit.keys import TenantKeys
from tests.faults.orders import store_of
from tests.support.waiting import until

HELD_S = 20.0
TOLD_S = 60.0


async def told(store: Any) -> list[str]:
    """Ids of the tenant's events."""
    return [orjson.loads(fields[b"e"])[0] for _, fields in await store.xrange(TenantKeys(DEVELOPER).events)]


async def test_the_end_of_a_run_whose_process_was_killed_before_it_told_is_told(rig, customers, quick_restarts):
    async with store_of(rig) as store:
        rig.points.arm(f"{Point.AFTER_COMMIT}=hold")
        order = await customers.order()
        pid = await rig.points.happened(HELD_S)
        end = f"{order.seen.run_id}/run.completed"

        async def is_told() -> bool:
            return end in await told(store)

        assert not await is_told()
        (part,) = [name for name, state in rig.stack.state.parts.items() if state.pid == pid]
        restarts = rig.part(part).restarts
        os.kill(pid, signal.SIGKILL)
        await order.end()
        await until(is_told, TOLD_S)
        assert f"{order.seen.run_id}/run.started" in await told(store)
        await rig.ready_again(part, restarts)
    await customers.check(order)
