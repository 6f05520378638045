"""A queue whose first put waits, for tests of what others do meanwhile."""

import asyncio


class HeldPut:
    """Holds the first put into a queue until it may `go` on, and calls `after` when it is over.

    `reached` is set when there is one.
    """

    def __init__(self, queue, after=lambda: None):
        self._put, self._after = queue.put, after
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        queue.put = self.put

    async def put(self, *what, **how):
        if self.reached.is_set():
            return await self._put(*what, **how)
        self.reached.set()
        await self.go.wait()
        try:
            return await self._put(*what, **how)
        finally:
            self._after()
