"""Circuit breakers: what failed several times in a row is left alone for a while, and then tried by one call.

A breaker counts only what its backend does: who cancels, asks wrongly or brings too little time says nothing about it.
Why this is ours, and not a library: docs/adr/0011.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from services.kit.errors import DeadlineExceeded, ServiceError

log = structlog.get_logger(__name__)

FAIR_S = 1.0
"""Seconds after which a backend that has not answered is blamed; less time than that is the caller's doing."""

_CAPACITY = 1024
_SLACK = 0.9
"""Share of the fair time that counts as all of it: a call keeps up to a tenth of its time for the way back."""


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
    rest_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """A kind of backend.

    Args:
        kind: Its name in metrics and logs.
        refusal: What is raised while the circuit is open, with ErrorInfo metadata `circuit=open` and a time to wait.
        message: Its message.
        blames: Errors that are the backend's.
        named: Whether metrics show the state of each. False for backends that users name, of which there may be any
            number: shown are those that are not closed.
        label: What metrics call a backend. Of several with one label they show the one that is worst off.
    """

    kind: str
    refusal: type[ServiceError]
    message: str
    blames: tuple[type[ServiceError], ...]
    named: bool = True
    label: Callable[[str], str] = str


class Shown(Protocol):
    """Where states are shown."""

    def state(self, kind: str, name: str, state: float | None) -> None:
        """One circuit's state. None: it is shown no longer."""

    def open(self, kind: str, count: int) -> None:
        """How many circuits of a kind are not closed."""


class Attempt:
    """One call of the backend, as a context manager around it."""

    __slots__ = ("_breaker", "_excused", "_fair_s", "began")

    def __init__(self, breaker: "Breaker", fair_s: float) -> None:
        """Begins when it is entered."""
        self._breaker = breaker
        self._fair_s = fair_s
        self.began = 0.0
        self._excused = False

    def __enter__(self) -> "Attempt":
        """Lets the call through.

        Raises:
            ServiceError: the circuit is open: its refusal.
        """
        self._breaker.admit(self)
        self.began = self._breaker.clock()
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
        """What is raised next is for want of an answer: the backend's if it had a fair time, and answered nobody."""
        unfair = self._breaker.clock() - self.began < self._fair_s * _SLACK
        self._excused = unfair or self._breaker.answered_since(self.began)

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
        changed: Callable[["Breaker", State], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins closed, and calls `changed` with the state before, after a change of state or of being spotless."""
        self.circuit = circuit
        self.clock = clock
        self.state = State.CLOSED
        self._rules = rules
        self._changed = changed
        self._failures = 0
        self._rests_until = 0.0
        self._answered = -math.inf
        self._probe: Attempt | None = None
        self._probing_since = 0.0

    @property
    def spotless(self) -> bool:
        """Whether it is as it was when it was made."""
        return self.state is State.CLOSED and not self._failures

    def answered_since(self, moment: float) -> bool:
        """Whether any call was answered after `moment`, a time of `clock`."""
        return self._answered > moment

    def attempt(self, fair_s: float = FAIR_S) -> Attempt:
        """A call about to be made; without an answer for `fair_s` seconds the backend is to blame."""
        return Attempt(self, fair_s)

    def admit(self, attempt: Attempt) -> None:
        """Lets an attempt through, or raises the circuit's refusal."""
        if self.state is State.CLOSED:
            return
        now = self.clock()
        left = self._rests_until - now
        # One that hangs must not keep everyone out.
        if left <= 0 and (self._probe is None or now - self._probing_since >= self._rules.rest_s):
            self._probe, self._probing_since = attempt, now
            self._become(State.HALF_OPEN)
            return
        wait = left if left > 0 else self._rules.rest_s
        raise self.circuit.refusal(self.circuit.message, retry_after=wait, metadata={"circuit": "open"})

    def worked(self, attempt: Attempt) -> None:
        """An attempt was answered."""
        self._answered = self.clock()
        if self.state is not State.CLOSED and self._tries(attempt):
            self._probe = None
            self._become(State.CLOSED)
        elif self.state is State.CLOSED and self._failures:
            self._failures = 0
            self._changed(self, self.state)

    def failed(self, attempt: Attempt) -> None:
        """An attempt failed. One that began before the circuit opened tells nothing new."""
        if self.state is State.CLOSED:
            self._failures += 1
            if self._failures < self._rules.failures:
                self._changed(self, self.state)
                return
        elif not self._tries(attempt):
            return
        self._probe = None
        self._failures = 0
        self._rests_until = self.clock() + self._rules.rest_s
        self._become(State.OPEN)

    def says_nothing(self, attempt: Attempt) -> None:
        """An attempt ended without a word about the backend: the next call may be the one that tries it."""
        if attempt is self._probe:
            self._probe = None

    def _tries(self, attempt: Attempt) -> bool:
        """Whether it was let through to see, and not before the circuit opened."""
        return attempt.began >= self._rests_until

    def _become(self, state: State) -> None:
        before, self.state = self.state, state
        if state is not before:
            self._changed(self, before)


class Breakers:
    """The breakers of one kind of backend, by name.

    Kept are those that are not closed, and apart from them those that failed since their last answer: of either the
    ones used last. The others live as long as somebody uses them.
    """

    def __init__(
        self,
        circuit: Circuit,
        rules: Rules | None = None,
        shown: Shown | None = None,
        *,
        capacity: int = _CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes each when it is asked for, and tells `shown` of their states; keeps `capacity` of either."""
        self._circuit = circuit
        self._rules = rules or Rules()
        self._shown = shown
        self._capacity = capacity
        self._clock = clock
        self._known: WeakValueDictionary[str, Breaker] = WeakValueDictionary()
        self._failing: OrderedDict[str, Breaker] = OrderedDict()
        self._open: OrderedDict[str, Breaker] = OrderedDict()
        self._not_closed: dict[str, dict[str, State]] = {}  # by label and name
        if shown is not None:
            shown.open(circuit.kind, 0)

    def of(self, name: str) -> Breaker:
        """The breaker of the backend `name`."""
        breaker = self._known.get(name)
        if breaker is None:
            breaker = Breaker(self._circuit, self._rules, partial(self._note, name), self._clock)
            self._known[name] = breaker
            self._show(name, State.CLOSED)
        for kept in (self._failing, self._open):
            if name in kept:
                kept.move_to_end(name)
        return breaker

    def _note(self, name: str, breaker: Breaker, before: State) -> None:
        self._failing.pop(name, None)
        self._open.pop(name, None)
        if not breaker.spotless:
            kept = self._failing if breaker.state is State.CLOSED else self._open
            kept[name] = breaker
            if len(kept) > self._capacity:
                dropped, _ = kept.popitem(last=False)
                self._show(dropped, State.CLOSED)
        if breaker.state is not before:
            log.warning("circuit changed", kind=self._circuit.kind, name=name, state=breaker.state.name.lower())
            self._show(name, breaker.state)
            if self._shown is not None:
                self._shown.open(self._circuit.kind, len(self._open))

    def _show(self, name: str, state: State) -> None:
        label = self._circuit.label(name)
        states = self._not_closed.pop(label, {}) | {name: state}
        if state is State.CLOSED:
            del states[name]
        if states:
            self._not_closed[label] = states
        if self._shown is not None:
            at_rest = State.CLOSED if self._circuit.named else None
            self._shown.state(self._circuit.kind, label, max(states.values(), default=at_rest))
