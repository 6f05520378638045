"""Time that passes while nothing happens, skipped: who sleeps a minute wakes at once, a minute later by every clock.

For tests that open no sockets: whatever they wait for is a timer, or a thread or a process that works for them.

The selector and the clocks are replaced, and not `asyncio.sleep`, so that deadlines, timers and what is measured agree
however they are written. Threads and processes are followed, since the time in which they work is not idle: skipped,
it would cut deadlines that nobody missed.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest


class _Skipping:
    """A loop's selector: where nobody has anything to do until a timer ends, that is now."""

    def __init__(self, loop: Any) -> None:
        self.skipped_s = 0.0
        self._loop, self._selector = loop, loop._selector
        self._elsewhere: set[object] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)

    def begun(self, work: object) -> None:
        """A thread or a process works on this: until it has ended nothing is idle."""
        self._elsewhere.add(work)

    def ended(self, work: object) -> None:
        """It has ended, and the loop was told."""
        if work in self._elsewhere:
            self._elsewhere.discard(work)
            self._loop.call_soon_threadsafe(int)  # the loop may be waiting for its next timer

    def select(self, timeout: float | None = None) -> Any:
        """What is ready. Nothing: a timer is."""
        if timeout is None or timeout <= 0 or self._elsewhere:
            return self._selector.select(timeout)
        found = self._selector.select(0)
        if not found:
            self.skipped_s += timeout
        return found


@contextmanager
def skipped(loop: Any) -> Iterator[None]:
    """Skips it on this loop while the block runs. The clocks of `time` go on by it; those of the processor do not."""
    selector = _Skipping(loop)
    monotonic, now, now_ns = time.monotonic, time.time, time.time_ns
    submit, tell, execute = ThreadPoolExecutor.submit, Future._invoke_callbacks, loop.subprocess_exec

    def submitted(*arguments: Any, **named: Any) -> "Future[Any]":
        work = submit(*arguments, **named)
        selector.begun(work)
        if work.done():
            selector.ended(work)
        return work

    def told(work: "Future[Any]") -> None:
        tell(work)  # a callback of a loop's is among them
        selector.ended(work)

    async def executed(*arguments: Any, **named: Any) -> Any:
        transport, protocol = await execute(*arguments, **named)
        work = asyncio.ensure_future(transport._wait())
        selector.begun(work)
        work.add_done_callback(selector.ended)
        return transport, protocol

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_selector", selector)
        patch.setattr(loop, "subprocess_exec", executed)
        patch.setattr(ThreadPoolExecutor, "submit", submitted)
        patch.setattr(Future, "_invoke_callbacks", told)
        patch.setattr(time, "monotonic", lambda: monotonic() + selector.skipped_s)
        patch.setattr(time, "time", lambda: now() + selector.skipped_s)
        patch.setattr(time, "time_ns", lambda: now_ns() + round(selector.skipped_s * 1e9))
        yield
