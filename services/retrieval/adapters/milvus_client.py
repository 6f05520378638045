"""The way to Milvus: a limit on every wait, failures as errors of ours, and coming back by itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import structlog
from pymilvus import AsyncMilvusClient, MilvusException

from services.kit.breaker import FAIR_S, Attempt, Breaker, Breakers, Circuit
from services.kit.call import current_call
from services.kit.errors import VectorIndexUnavailable
from services.retrieval.adapters.milvus_search import Searches

T = TypeVar("T")

RETRY_AFTER_S = 1.0
MILVUS = Circuit("milvus", VectorIndexUnavailable, "the vector index does not answer", (VectorIndexUnavailable,))
_PREPARE_S = 60.0
_MARGIN_S = 0.05
"""Of the caller's time, kept for the way back: who is cut off learns less than who is told."""
_SERVICE_CODES = 100
"""Milvus's error codes below this one are about itself, those above about what it was asked. A broken connection is
reported with gRPC's status in place of a code, and is about itself too."""
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

    def __init__(
        self,
        settings: MilvusSettings,
        prepare: Callable[[AsyncMilvusClient], Awaitable[None]],
        breaker: Breaker | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            settings: Where Milvus is.
            prepare: Runs before the first call, and again after a failure; it may be repeated.
            breaker: The one of `MILVUS`.
        """
        # It logs what it was asked for, with a traceback, whenever a call fails; we log that it failed.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
        self._client = AsyncMilvusClient(
            uri=settings.uri,
            token=settings.token,
            timeout=settings.connect_timeout,
            dedicated=True,
            grpc_options=_OPTIONS,
        )
        self._settings = settings
        self._searches: Searches | None = None
        self._timeout = settings.timeout
        self._breaker = breaker or Breakers(MILVUS).of(settings.uri)
        self._prepare = prepare
        self._prepared = False
        self._preparing: asyncio.Task[None] | None = None
        self._log = structlog.get_logger(__name__)

    async def call(self, operation: Callable[[AsyncMilvusClient], Awaitable[T]]) -> T:
        """What `operation` returns. It sets `retry_times`: pymilvus repeats a failed call 75 times when not told.

        Raises:
            VectorIndexUnavailable: Milvus does not answer, not in time, with an error, or did not of late.
        """
        with self._breaker.attempt(min(self._timeout, FAIR_S)) as attempt:
            return await self._ask(operation, self._time(), attempt)

    async def search(self, request: Any) -> Any:
        """What a request made by `milvus_search` finds, a `SearchResultData`; for an operation of `call`.

        Raises:
            MilvusException, grpc.RpcError, TimeoutError: as `call` takes them.
        """
        if self._searches is None:
            self._searches = Searches(self._settings.uri, self._settings.token, _OPTIONS)
        async with asyncio.timeout(self._timeout):
            return await self._searches.search(request)

    async def check(self, operation: Callable[[AsyncMilvusClient], Awaitable[object]]) -> None:
        """As `call`, also while the circuit is open: asking Milvus how it is harms nobody."""
        await self._ask(operation, self._timeout)

    async def _ask(
        self, operation: Callable[[AsyncMilvusClient], Awaitable[T]], timeout: float, attempt: Attempt | None = None
    ) -> T:
        try:
            # pymilvus applies its own timeouts to parts of a call only, and repeats within them.
            async with asyncio.timeout(timeout):
                if not self._prepared:
                    await asyncio.shield(self._preparation())
                return await operation(self._client)
        except (MilvusException, grpc.RpcError, TimeoutError, OSError) as error:
            self._prepared = False
            self._log.warning("milvus failed", error=type(error).__name__, code=str(getattr(error, "code", "")))
            if attempt is not None:
                _judge(attempt, error)
            raise VectorIndexUnavailable("the vector index does not answer", retry_after=RETRY_AFTER_S) from None

    def _time(self) -> float:
        call = current_call()
        left = call.remaining() if call else None
        return self._timeout if left is None else min(self._timeout, left - min(_MARGIN_S, left / 10))

    async def close(self) -> None:
        """Closes the connection."""
        if self._preparing is not None:
            self._preparing.cancel()
        await self._client.close()
        if self._searches is not None:
            await self._searches.close()

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


def _judge(attempt: Attempt, error: Exception) -> None:
    """Leaves out what says nothing of Milvus: too little time, and a question that it would not answer."""
    if isinstance(error, TimeoutError):
        attempt.timed_out()
    elif isinstance(error, MilvusException) and isinstance(error.code, int) and error.code >= _SERVICE_CODES:
        attempt.excuse()
