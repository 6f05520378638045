"""A steady load: so many calls a second, whether or not the ones before are answered, and what came of each."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from services.kit.call import Principal
from services.kit.interceptors.identity import metadata_of
from services.kit.status import from_rpc_error

OK = "OK"
ALONE = Principal("dev", "alone", frozenset({"admin"}))
"""Whose sessions are read."""

BIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call: when it began (seconds since the load did), how long it took, and its code."""

    at: float
    seconds: float
    code: str
    error: BaseException | None = None


@dataclass
class Load:
    """What a load saw until now."""

    began: float = field(default_factory=time.monotonic)
    outcomes: list[Outcome] = field(default_factory=list)
    stood: float = 0.0
    """Longest time that who makes the calls stood still, seconds: what ended then was seen so much later."""

    @property
    def now(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self.began

    def between(self, since: float = 0.0, until: float = float("inf")) -> list[Outcome]:
        """Calls that began in that time."""
        return [outcome for outcome in self.outcomes if since <= outcome.at < until]

    def codes(self, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
        """How many calls that began in that time ended how."""
        return Counter(outcome.code for outcome in self.between(since, until))

    def tenths(self) -> str:
        """Codes per 100 ms, by the time of the calls' begin: what a failing test shows."""
        bins: dict[float, Counter[str]] = {}
        for outcome in sorted(self.outcomes, key=lambda outcome: outcome.at):
            bins.setdefault(round(outcome.at // BIN_S * BIN_S, 1), Counter())[outcome.code] += 1
        return " | ".join(
            f"{at:g} " + " ".join(f"{code}x{count}" for code, count in codes.items()) for at, codes in bins.items()
        )

    def failures(self) -> str:
        """Calls that were not answered, a line each, below what all came to."""
        failed = (f"{each.at:.2f} {each.seconds:.2f} {each.error!r}"[:400] for each in self.outcomes if each.error)
        return "\n".join([self.tenths(), *failed])

    def share_ok(self, since: float = 0.0, until: float = float("inf")) -> float:
        """Share of the calls that began in that time and were answered."""
        codes = self.codes(since, until)
        assert codes, "no call was made in that time"
        return codes[OK] / codes.total()

    def slowest(self, since: float = 0.0, until: float = float("inf")) -> float:
        """Seconds of the slowest call that began in that time."""
        return max(outcome.seconds for outcome in self.between(since, until))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of `values` stays within."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


@asynccontextmanager
async def steady(
    rps: float, call: Callable[[int], Awaitable[object]], *, patience_s: float = 30.0
) -> AsyncIterator[Load]:
    """Calls while the block runs, and waits for what is under way at its end.

    Args:
        rps: Calls a second.
        call: Given the number of the call. What it raises is the call's code: that of a gRPC error, or else the name
            of the exception's class, as `AssertionError` for an answer that is wrong.
        patience_s: A call that takes longer is cut, and counts as `HUNG`.
    """
    load = Load()
    under_way: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        at, code = load.now, OK
        caught: Exception | None = None
        try:
            async with asyncio.timeout(patience_s) as timer:
                await call(number)
        except grpc.aio.AioRpcError as error:
            code, caught = error.code().name, error
        except TimeoutError as error:
            code, caught = "HUNG" if timer.expired() else "TimeoutError", error
        except Exception as error:  # noqa: BLE001 - counted by its class
            code, caught = type(error).__name__, error
        load.outcomes.append(Outcome(at, load.now - at, code, caught))

    async def generate() -> None:
        number = 0
        while True:
            task = asyncio.create_task(one(number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
            await asyncio.sleep(max(0.0, number / rps - load.now))
            load.stood = max(load.stood, load.now - number / rps)

    generating = asyncio.create_task(generate())
    try:
        yield load
    finally:
        generating.cancel()
        await asyncio.gather(generating, return_exceptions=True)
        await asyncio.gather(*under_way)


async def _flood(address: str, session_id: str, workers: int, seconds: float) -> Counter[str]:
    """Reads of a session, so many at once, each as soon as the last is answered; who is refused waits as told."""
    codes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    identity = metadata_of(ALONE, None)
    request = memory_pb2.GetSessionRequest(session_id=session_id)
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = memory_pb2_grpc.MemoryServiceStub(channel)

        async def work() -> None:
            while time.monotonic() < end:
                try:
                    await stub.GetSession(request, metadata=identity, timeout=5)
                    codes[OK] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] += 1
                    retry_after = from_rpc_error(error, "memory").retry_after or 0.0
                    await asyncio.sleep(retry_after * random.uniform(0.5, 1.5))

        await asyncio.gather(*(work() for _ in range(workers)))
    return codes


@asynccontextmanager
async def flooded(address: str, session_id: str, workers: int, seconds: float) -> AsyncIterator[Counter[str]]:
    """Floods memory from a process of its own, which does not take the time of this one's loop.

    Yields:
        The codes of its calls, there after the block.
    """
    arguments = (address, session_id, str(workers), str(seconds))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, *arguments, stdout=asyncio.subprocess.PIPE
    )
    codes: Counter[str] = Counter()
    try:
        yield codes
        output, _ = await process.communicate()
        codes.update(json.loads(output))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_flood(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))  # noqa: T201
