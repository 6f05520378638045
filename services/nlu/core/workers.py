"""A thread pool with a bounded queue."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Workers:
    """Runs CPU work off the event loop. As many pieces as threads are handed over; the others wait on the loop.

    A thread cannot be stopped: work must be bounded by its input. A caller that gives up while its piece runs leaves
    at once, and the thread is counted as busy until the piece is done.
    """

    def __init__(self, threads: int) -> None:
        """Starts threads as they are needed, `threads` at most."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="nlu")
        self._free = asyncio.Semaphore(threads)

    async def run(self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """What `work` returns or raises."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        try:
            future = self._executor.submit(work, *args, **kwargs)
        except RuntimeError:
            self._free.release()
            raise
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        return await asyncio.shield(asyncio.wrap_future(future))

    async def close(self) -> None:
        """Lets what runs finish; nothing more is taken."""
        await asyncio.to_thread(self._executor.shutdown)
