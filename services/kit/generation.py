"""One stream of a model's replies, and how to leave it without harming Triton.

Triton 2.51 crashes when a stream is cancelled while several of its responses wait to be written, and never frees a
request that is cancelled on top of its last response (triton_repo/README.md). So a task of its own reads what comes,
whoever is cancelled meanwhile; a stream that is left is read on until nothing came for a moment, and cancelled then.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import grpc

from services.kit.errors import DeadlineExceeded, ServiceError, ServiceUnavailable
from services.kit.status import from_rpc_error

LEAVE_S = 0.1
"""Longest time a stream that was left is read on."""

_QUIET_S = 0.005
_BUFFER = 64


class Generation:
    """The replies of one call, read in the background up to a small buffer."""

    def __init__(self, call: Any, timeout: float, peer: str, first_s: float = math.inf) -> None:
        """Reads `call`.

        Args:
            call: A stream of the generated stub.
            timeout: Seconds the whole of it may take.
            peer: Names it in errors.
            first_s: Seconds its first reply may take.
        """
        self._call = call
        self._timeout = timeout
        self._first_s = first_s
        self._peer = peer
        self.silent = False
        """Whether it was given up because its first reply did not come."""
        self._buffer: deque[Any] = deque()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._left = False
        self._received = 0
        self._error: ServiceError | None = None
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _reader: self._readable.set())

    @property
    def ended(self) -> bool:
        """Whether the stream has come to its end: there is nothing to leave."""
        return self._reader.done()

    async def replies(self) -> AsyncGenerator[Any]:
        """What comes, in order, to the end of the stream.

        Raises:
            ServiceError: the stream broke, stayed silent (ServiceUnavailable) or took too long (DeadlineExceeded).
        """
        while True:
            await self._readable.wait()
            while self._buffer:
                reply = self._buffer.popleft()
                self._writable.set()
                yield reply
            if self._reader.done():
                break
            self._readable.clear()
        if self._error is not None:
            raise self._error
        if not self._left and (self._reader.cancelled() or self._reader.exception() is not None):
            raise ServiceUnavailable(f"{self._peer} broke off")

    async def leave(self) -> None:
        """Gives the stream up: cancels it in a gap between its replies, or sees it end."""
        self._left = True
        self._writable.set()
        loop = asyncio.get_running_loop()
        end = loop.time() + LEAVE_S
        while not self._reader.done() and loop.time() < end:
            received = self._received
            await asyncio.sleep(_QUIET_S)
            if received == self._received:
                break
        self._call.cancel()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(min(self._timeout, self._first_s)) as timer:
                await self._receive(timer, asyncio.get_running_loop().time() + self._timeout)
        except TimeoutError:
            self.silent = not self._received and self._first_s < self._timeout
            error = ServiceUnavailable if self.silent else DeadlineExceeded
            self._error = error(f"{self._peer} did not answer in time")
            self._call.cancel()
        except grpc.aio.AioRpcError as error:
            self._error = from_rpc_error(error, self._peer)
        except asyncio.CancelledError:
            if not self._left:
                raise

    async def _receive(self, timer: asyncio.Timeout, end: float) -> None:
        while (reply := await self._call.read()) is not grpc.aio.EOF:
            if not self._received:
                timer.reschedule(end)
            self._received += 1
            if self._left:
                continue
            self._buffer.append(reply)
            self._readable.set()
            if len(self._buffer) >= _BUFFER:
                self._writable.clear()
                await self._writable.wait()
