"""The way to Milvus: one client, a limit on every wait, failures as errors of ours, and coming back by itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
import structlog
from pymilvus import AsyncMilvusClient, MilvusException

from services.kit.errors import VectorIndexUnavailable

T = TypeVar("T")

RETRY_AFTER_S = 1.0
_PREPARE_S = 60.0
_OPTIONS = {
    # Pings only while a call waits: Milvus closes the connection of a client that pings every 10 s, pymilvus's default.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.enable_http_proxy": 0,
}


@dataclass(frozen=True)
class MilvusSettings:
    """Where Milvus is, and how long to wait for it, in seconds."""

    uri: str
    token: str = ""
    timeout: float = 5.0
    connect_timeout: float = 2.0


class Milvus:
    """Calls Milvus. Bound to the event loop it first calls in."""

    def __init__(self, settings: MilvusSettings, prepare: Callable[[AsyncMilvusClient], Awaitable[None]]) -> None:
        """Opens nothing yet. `prepare` runs before the first call, and again after a failure; it may be repeated."""
        # It logs what it was asked for, with a traceback, whenever a call fails; we log that it failed.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
        self._client = AsyncMilvusClient(
            uri=settings.uri,
            token=settings.token,
            timeout=settings.connect_timeout,
            dedicated=True,
            grpc_options=_OPTIONS,
        )
        self._timeout = settings.timeout
        self._prepare = prepare
        self._prepared = False
        self._preparing: asyncio.Task[None] | None = None
        self._log = structlog.get_logger(__name__)

    async def call(self, operation: Callable[[AsyncMilvusClient], Awaitable[T]]) -> T:
        """What `operation` returns. It sets `retry_times`: pymilvus repeats a failed call 75 times when not told.

        Raises:
            VectorIndexUnavailable: Milvus does not answer, not in time, or with an error.
        """
        try:
            # pymilvus applies its own timeouts to parts of a call only, and repeats within them.
            async with asyncio.timeout(self._timeout):
                if not self._prepared:
                    await asyncio.shield(self._preparation())
                return await operation(self._client)
        except (MilvusException, grpc.RpcError, TimeoutError, OSError) as error:
            self._prepared = False
            self._log.warning("milvus failed", error=type(error).__name__, code=str(getattr(error, "code", "")))
            raise VectorIndexUnavailable("the vector index does not answer", retry_after=RETRY_AFTER_S) from None

    async def close(self) -> None:
        """Closes the connection."""
        if self._preparing is not None:
            self._preparing.cancel()
        await self._client.close()

    def _preparation(self) -> asyncio.Task[None]:
        """One for all who wait; it goes on when they stop waiting."""
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._make_ready())
            self._preparing.add_done_callback(self._note)
        return self._preparing

    async def _make_ready(self) -> None:
        async with asyncio.timeout(_PREPARE_S):
            await self._prepare(self._client)
        self._prepared = True

    def _note(self, preparation: asyncio.Task[None]) -> None:
        self._preparing = None
        if not preparation.cancelled():
            preparation.exception()  # read, so that a failure nobody waited for is not reported as forgotten
