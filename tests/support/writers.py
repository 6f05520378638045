"""Writers that never pause, and remember what was acknowledged."""

import asyncio
import itertools
import threading
import time

from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from services.kit.errors import StoreUnavailable
from services.kit.redis import Redis

KEYS = 12
"""Lists a writer fills, one after the other, each in a tag of its own: every primary of a cluster has some."""

_TASKS = 4
_PAUSE_S = 0.004
_ON_ITS_WAY_S = 0.05
"""An acknowledgement may have been on its way already."""


class Writer:
    """Appends numbers to lists, on whatever machine `run` is run."""

    def __init__(self, url: str, name: str, *, replicas: int, slots: range = range(SLOTS)) -> None:
        """Nothing is open yet.

        Args:
            url: Where to write.
            name: Of the lists.
            replicas: How many must have what counts as written.
            slots: Where in a cluster the lists are.
        """
        self._url, self._name, self._replicas = url, name, replicas
        there = (number for number in itertools.count() if key_slot(self.key(number).encode()) in slots)
        self._keys = list(itertools.islice(there, KEYS))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.acknowledged: list[tuple[float, int, int]] = []
        """When (monotonic), in which list, which number."""
        self.refused: list[tuple[float, int]] = []
        self.broken: list[BaseException] = []

    def start(self, machine) -> "Writer":
        """Writes from a machine, in a thread of its own."""
        self._thread = threading.Thread(target=machine.run, args=(self._run,))
        self._thread.start()
        return self

    def stop(self) -> None:
        """Returns when the last write has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        assert not self.broken, self.broken

    def key(self, number: int) -> str:
        return f"{{{self._name}-{number}}}:numbers"

    def between(self, start: float, end: float = float("inf")) -> list[float]:
        """When writes were acknowledged in a time."""
        return [at for at, *_ in self.acknowledged if start <= at < end]

    def gap(self, since: float) -> float:
        """Seconds from then until every list that was written before had been written again."""
        first: dict[int, float] = {}
        for at, key, _ in self.acknowledged:
            if at >= since + _ON_ITS_WAY_S:
                first.setdefault(key, at - since)
        return max((first.get(key, float("inf")) for at, key, _ in self.acknowledged if at < since), default=0.0)

    async def lost(self, redis: Redis) -> int:
        """How many of the acknowledged numbers are not there."""
        missing = 0
        for number in self._keys:
            there = {int(value) for value in await redis.execute("LRANGE", self.key(number), 0, -1)}
            missing += len({value for _, key, value in self.acknowledged if key == number} - there)
        return missing

    async def _run(self) -> None:
        redis = Redis(self._url, connections=8, replicas=self._replicas)
        try:
            await asyncio.gather(*(self._write(redis, task) for task in range(_TASKS)))
        except Exception as error:  # noqa: BLE001 - told by `stop`
            self.broken.append(error)
        finally:
            await redis.close()

    async def _write(self, redis: Redis, task: int) -> None:
        number = task
        while not self._stop.is_set():
            key = self._keys[number % KEYS]
            try:
                await redis.execute("RPUSH", self.key(key), number, kept=True)
                self.acknowledged.append((time.monotonic(), key, number))
            except StoreUnavailable:
                self.refused.append((time.monotonic(), key))
            number += _TASKS
            await asyncio.sleep(_PAUSE_S)
