"""How late the event loop is: what blocks it shows here, whichever call it was."""

import asyncio
from collections.abc import Callable

EVERY_S = 0.05
"""An idle process pays 0.15 % of a core for it, five times as much at 0.01. What blocks longer is always seen."""


def watch_lag(observe: Callable[[float], None], every_s: float = EVERY_S) -> Callable[[], None]:
    """Tells `observe` again and again how many seconds late the loop was; what it returns ends that."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def tick(due: float) -> None:
        nonlocal timer
        now = loop.time()
        observe(max(0.0, now - due))
        timer = loop.call_at(now + every_s, tick, now + every_s)

    due = loop.time() + every_s
    timer = loop.call_at(due, tick, due)
    return lambda: timer.cancel()
