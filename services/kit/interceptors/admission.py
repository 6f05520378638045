"""What a process cannot serve it refuses at once, at its door: a call within the process was let in there already.

Health and reflection pass no interceptor: a process that is full still says that it lives.
"""

from dataclasses import dataclass
from typing import Any

from services.kit.call import Call
from services.kit.chain import Interceptor, Method, Proceed
from services.kit.errors import Overloaded
from services.kit.interceptors.identity import INPROC_PEER
from services.kit.telemetry import LoadMetrics

_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Most calls under way in one process.

    Args:
        calls: With one reply. Few: the more there are, the longer each takes.
        streams: With a stream of replies. Many: a stream mostly waits.
    """

    calls: int = 256
    streams: int = 12_000


def admission(limits: Limits, metrics: LoadMetrics) -> Interceptor:
    """Lets so many calls in at once; one more is refused, and waits nowhere."""
    calls, streams = _Places("calls", limits.calls, metrics), _Places("streams", limits.streams, metrics)

    async def admitted(call: Call, method: Method, proceed: Proceed) -> Any:
        if call.peer == INPROC_PEER:
            return await proceed(call)
        places = streams if method.streams else calls
        places.take()
        try:
            return await proceed(call)
        finally:
            places.give_back()

    return admitted


class _Places:
    """So many places."""

    def __init__(self, kind: str, limit: int, metrics: LoadMetrics) -> None:
        self._limit = limit
        self._taken = 0
        self._shed = metrics.shed.labels(kind)
        metrics.held.labels(kind).set_function(lambda: self._taken)

    def take(self) -> None:
        if self._taken >= self._limit:
            self._shed.inc()
            raise Overloaded("too many calls are under way", retry_after=_RETRY_AFTER_S)
        self._taken += 1

    def give_back(self) -> None:
        self._taken -= 1
