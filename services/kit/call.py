"""What is known of the call at hand, whichever way it came in."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose behalf a call is made. Every key, filter and log line of it starts here."""

    tenant: str
    user: str
    roles: frozenset[str] = frozenset()


@dataclass(slots=True)
class Call:
    """One call of one method.

    Args:
        method: Full name, `/myriad.nlu.v1.NluService/Analyze`.
        metadata: Text metadata by lower-case name; of a repeated name, the last value.
        deadline: Loop time (seconds) at which the caller stops waiting. None: it did not say.
        peer: Where the call came from; `inproc` for this process.
        body: The request as it came.
        request: The request decoded; set by the validation interceptor.
        principal: On whose behalf; set by the identity interceptor.
        traceparent: The trace the call belongs to, as W3C writes it; goes along to the calls made for it.
        reply_metadata: Sent before the first reply message.
        send: Takes each reply message of a stream, and waits until there is room for it.
    """

    method: str
    metadata: Mapping[str, str]
    deadline: float | None
    peer: str
    body: bytes = b""
    request: Any = None
    principal: Principal | None = None
    traceparent: str = ""
    reply_metadata: dict[str, str] = field(default_factory=dict)
    send: Callable[[bytes], Awaitable[None]] | None = None

    def remaining(self) -> float | None:
        """Seconds until the deadline, 0 at least. None: there is no deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


_TRACE = len("00-") + 32
"""Characters of a `traceparent` that name the trace."""

# A context variable is the one module-level name a request's state may hang on: each call has its own task.
_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call | None:
    """The call this task works for. None: it works for none."""
    return _current.get(None)


def current_principal() -> Principal:
    """On whose behalf this task works.

    Raises:
        LookupError: nobody's; the identity interceptor did not run.
    """
    call = _current.get(None)
    if call is None or call.principal is None:
        raise LookupError("no principal: this task works for no identified call")
    return call.principal


def current_traceparent() -> str:
    """The trace this task works for, as W3C writes it. Empty: none."""
    call = _current.get(None)
    return call.traceparent if call else ""


def enter(call: Call) -> None:
    """Makes `call` the one this task, and tasks it starts from now on, work for."""
    _current.set(call)


def work_as(principal: Principal, *, name: str, timeout: float) -> None:
    """Makes this task work for `principal` beyond the call that started it, as a run does.

    Args:
        principal: On whose behalf.
        name: Stands for the method in logs.
        timeout: Seconds it may take in all; calls it makes get what is left.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    enter(Call(name, {}, deadline, peer="inproc", principal=principal, traceparent=current_traceparent()))


def join_trace(traceparent: str) -> None:
    """Makes what this task does from now on part of a trace, if it is not yet. Empty: of the one it is part of."""
    call = current_call()
    if call is not None and traceparent and call.traceparent[:_TRACE] != traceparent[:_TRACE]:
        call.traceparent = traceparent
