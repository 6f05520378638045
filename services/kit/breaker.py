"""Circuit breakers: what failed several times in a row is left alone for a while, and then tried by one call.

A breaker counts only what its backend does: who cancels, asks wrongly or brings too little time says nothing about it.
Why this is ours, and not a library: docs/adr/0011.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import structlog

from services.kit.errors import DeadlineExceeded, ServiceError

log = structlog.get_logger(__name__)

FAIR_S = 1.0
"""Seconds after which a backend that has not answered is blamed; less time than that is the caller's doing."""

_CAPACITY = 1024
_SLACK = 0.9


class State(IntEnum):
    """What a breaker does with calls. The numbers are the metric's."""

    CLOSED = 0
    """Lets all through."""

    HALF_OPEN = 1
    """Lets one through, to see."""

    OPEN = 2
    """Refuses."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When breakers open, and for how long.

    Args:
        failures: So many in a row open it.
        rest_s: Seconds it stays open; then one call is let through.
    """

    failures: int = 5
    rest_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """A kind of backend.

    Args:
        kind: Its name in metrics and logs.
        refusal: What is raised while the circuit is open, with ErrorInfo metadata `circuit=open` and a time to wait.
        message: Its message.
        blames: Errors that are the backend's.
        named: Whether metrics show the state of each. False for backends that users name: those are only counted.
    """

    kind: str
    refusal: type[ServiceError]
    message: str
    blames: tuple[type[ServiceError], ...]
    named: bool = True


class Shown(Protocol):
    """Where states are shown."""

    def state(self, kind: str, name: str, state: float) -> None:
        """One circuit's state."""

    def open(self, kind: str, count: int) -> None:
        """How many circuits of a kind are not closed."""


class Attempt:
    """One call of the backend, as a context manager around it."""

    __slots__ = ("_began", "_breaker", "_excused", "_fair_s")

    def __init__(self, breaker: "Breaker", fair_s: float) -> None:
        """Begins when it is entered."""
        self._breaker = breaker
        self._fair_s = fair_s
        self._began = 0.0
        self._excused = False

    def __enter__(self) -> "Attempt":
        """Lets the call through.

        Raises:
            ServiceError: the circuit is open: its refusal.
        """
        self._breaker.admit(self)
        self._began = self._breaker.clock()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Judges how it ended."""
        if error is None and not self._excused:
            self._breaker.worked(self)
        elif self._is_blamed(error):
            self._breaker.failed(self)
        else:
            self._breaker.says_nothing(self)

    def worked(self) -> None:
        """The backend answers: said of a stream at its first reply, long before its end."""
        self._breaker.worked(self)

    def failed(self) -> None:
        """The backend failed, though nothing is raised."""
        self._excused = True
        self._breaker.failed(self)

    def excuse(self) -> None:
        """Whatever is raised next is not the backend's."""
        self._excused = True

    def timed_out(self) -> None:
        """What is raised next is for want of an answer: the backend's only if it had a fair time."""
        self._excused = self._breaker.clock() - self._began < self._fair_s * _SLACK

    def _is_blamed(self, error: BaseException | None) -> bool:
        if self._excused or not isinstance(error, self._breaker.circuit.blames):
            return False
        if isinstance(error, DeadlineExceeded):
            self.timed_out()
        return not self._excused


class Breaker:
    """The breaker of one backend."""

    def __init__(
        self,
        circuit: Circuit,
        rules: Rules,
        changed: Callable[[State], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins closed, and calls `changed` after each change of state."""
        self.circuit = circuit
        self.clock = clock
        self.state = State.CLOSED
        self._rules = rules
        self._changed = changed
        self._failures = 0
        self._rests_until = 0.0
        self._probe: Attempt | None = None

    def attempt(self, fair_s: float = FAIR_S) -> Attempt:
        """A call about to be made; without an answer for `fair_s` seconds the backend is to blame."""
        return Attempt(self, fair_s)

    def admit(self, attempt: Attempt) -> None:
        """Lets an attempt through, or raises the circuit's refusal."""
        if self.state is State.CLOSED:
            return
        left = self._rests_until - self.clock()
        if left <= 0 and self._probe is None:
            self._probe = attempt
            self._become(State.HALF_OPEN)
            return
        wait = left if left > 0 else self._rules.rest_s
        raise self.circuit.refusal(self.circuit.message, retry_after=wait, metadata={"circuit": "open"})

    def worked(self, attempt: Attempt) -> None:
        """An attempt was answered."""
        if attempt is self._probe:
            self._probe = None
            self._become(State.CLOSED)
        if self.state is State.CLOSED:
            self._failures = 0

    def failed(self, attempt: Attempt) -> None:
        """An attempt failed. One that began before the circuit opened tells nothing new."""
        if self.state is State.CLOSED:
            self._failures += 1
            if self._failures < self._rules.failures:
                return
        elif attempt is not self._probe:
            return
        self._probe = None
        self._failures = 0
        self._rests_until = self.clock() + self._rules.rest_s
        self._become(State.OPEN)

    def says_nothing(self, attempt: Attempt) -> None:
        """An attempt ended without a word about the backend: the next call may be the one that tries it."""
        if attempt is self._probe:
            self._probe = None

    def _become(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._changed(state)


class Breakers:
    """The breakers of one kind of backend, by name; those used last are kept."""

    def __init__(
        self,
        circuit: Circuit,
        rules: Rules | None = None,
        shown: Shown | None = None,
        *,
        capacity: int = _CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes each when it is first asked for, and tells `shown` of their states."""
        self._circuit = circuit
        self._rules = rules or Rules()
        self._shown = shown
        self._capacity = capacity
        self._clock = clock
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()

    def of(self, name: str) -> Breaker:
        """The breaker of the backend `name`."""
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = Breaker(self._circuit, self._rules, lambda state: self._note(name, state), self._clock)
            self._breakers[name] = breaker
            while len(self._breakers) > self._capacity:
                self._breakers.popitem(last=False)
            self._show(name, State.CLOSED)
        self._breakers.move_to_end(name)
        return breaker

    def _note(self, name: str, state: State) -> None:
        log.warning("circuit changed", kind=self._circuit.kind, name=name, state=state.name.lower())
        self._show(name, state)

    def _show(self, name: str, state: State) -> None:
        if self._shown is None:
            return
        if self._circuit.named:
            self._shown.state(self._circuit.kind, name, state)
        not_closed = sum(breaker.state is not State.CLOSED for breaker in self._breakers.values())
        self._shown.open(self._circuit.kind, not_closed)
