"""What a process cannot serve it refuses at once, at its door: a call within the process was let in there already.

The door is before the chain, and before the request is read: who floods a full service costs it little. Health and
reflection pass neither: a process that is full still says that it lives.
"""

from dataclasses import dataclass
from typing import Any

from services.kit.call import Call
from services.kit.chain import Method, Proceed
from services.kit.errors import Overloaded, ServiceError
from services.kit.interceptors.identity import INPROC_PEER
from services.kit.telemetry import LoadMetrics, Telemetry
from services.kit.topology import MOST_HELD

_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Most calls under way in one process.

    Args:
        calls: With one reply. Few: the more there are, the longer each takes.
        streams: With a stream of replies. Many: a stream mostly waits.
    """

    calls: int = 256
    streams: int = MOST_HELD


class Admission:
    """Lets so many calls in at once; one more is refused, and waits nowhere."""

    def __init__(self, limits: Limits, reports: Telemetry) -> None:
        """Begins empty, and shows what it holds and refuses."""
        self._calls = _Places("calls", limits.calls, reports.load)
        self._streams = _Places("streams", limits.streams, reports.load)
        self._errors = reports.calls.errors

    @property
    def refusal(self) -> ServiceError:
        """The error that whoever is refused gets."""
        return Overloaded("too many calls are under way", retry_after=_RETRY_AFTER_S)

    def refuses(self, method: Method) -> bool:
        """Whether a call is refused that has just come; counts it."""
        places = self._streams if method.streams else self._calls
        if not places.full:
            return False
        places.shed.inc()
        self._errors.labels(method.path, Overloaded.code.value).inc()
        return True

    async def __call__(self, call: Call, method: Method, proceed: Proceed) -> Any:
        """An interceptor: takes a place for as long as the call is under way.

        Raises:
            Overloaded: none is left; the last were taken while its request was read.
        """
        if call.peer == INPROC_PEER:
            return await proceed(call)
        places = self._streams if method.streams else self._calls
        if places.full:
            places.shed.inc()
            raise self.refusal
        places.taken += 1
        try:
            return await proceed(call)
        finally:
            places.taken -= 1


class _Places:
    """So many places."""

    def __init__(self, kind: str, limit: int, metrics: LoadMetrics) -> None:
        self._limit = limit
        self.taken = 0
        self.shed = metrics.shed.labels(kind)
        metrics.held.labels(kind).set_function(lambda: self.taken)

    @property
    def full(self) -> bool:
        return self.taken >= self._limit
