"""Fakes: the ports in this process, for tests and for a service that stands alone."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta

from services.kit.call import Principal
from services.kit.errors import AgentNotFound, FailedPrecondition, ToolUnavailable
from services.toolexec.domain import (
    AgentTools,
    Begun,
    CallKey,
    Finished,
    HttpRequest,
    HttpResponse,
    InProgress,
    Outcome,
)
from services.toolexec.ports import Clock

_StoreKey = tuple[str, str, CallKey]


class FixedClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        """Starts at `now`."""
        self._now = now
        self._monotonic = 0.0

    def now(self) -> datetime:
        """The time of day it was set to."""
        return self._now

    def monotonic(self) -> float:
        """Seconds it was moved by."""
        return self._monotonic

    def move(self, seconds: float) -> None:
        """Lets time pass."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


class InMemoryToolSource:
    """Tools of agents, by tenant and name; the last revision given is the latest."""

    def __init__(self) -> None:
        """Knows none."""
        self._agents: dict[tuple[str, str], dict[int, AgentTools]] = {}

    def put(self, tenant: str, agent: AgentTools) -> None:
        """Adds a revision."""
        self._agents.setdefault((tenant, agent.agent), {})[agent.revision] = agent

    async def get(self, principal: Principal, agent: str, revision: int) -> AgentTools:
        """As `ToolSource.get`."""
        revisions = self._agents.get((principal.tenant, agent), {})
        found = revisions.get(revision or max(revisions, default=0))
        if found is None:
            raise AgentNotFound("no such agent, or no such revision of it")
        return found


class InMemoryResultStore:
    """Results in this process; the oldest go when there are too many."""

    def __init__(self, clock: Clock, capacity: int = 10_000) -> None:
        """Keeps `capacity` results."""
        self._clock = clock
        self._capacity = capacity
        self._calls: OrderedDict[_StoreKey, tuple[float, Begun | Finished]] = OrderedDict()

    async def begin(self, principal: Principal, key: CallKey, running_for: float) -> Begun | Finished | InProgress:
        """As `ResultStore.begin`."""
        name = (principal.tenant, principal.user, key)
        until, state = self._calls.get(name, (0.0, None))
        if state is not None and until > self._clock.monotonic():
            return state if isinstance(state, Finished) else InProgress()
        begun = Begun(secrets.token_hex(8))
        self._keep(name, running_for, begun)
        return begun

    async def finish(self, principal: Principal, key: CallKey, ticket: str, outcome: Outcome, keep_for: float) -> None:
        """As `ResultStore.finish`."""
        name = (principal.tenant, principal.user, key)
        if self._holds(name, ticket):
            self._keep(name, keep_for, Finished(outcome))

    async def abandon(self, principal: Principal, key: CallKey, ticket: str) -> None:
        """As `ResultStore.abandon`."""
        name = (principal.tenant, principal.user, key)
        if self._holds(name, ticket):
            del self._calls[name]

    def _holds(self, name: _StoreKey, ticket: str) -> bool:
        until, state = self._calls.get(name, (0.0, None))
        return state == Begun(ticket) and until > self._clock.monotonic()

    def _keep(self, name: _StoreKey, seconds: float, state: Begun | Finished) -> None:
        self._calls.pop(name, None)
        self._calls[name] = (self._clock.monotonic() + seconds, state)
        while len(self._calls) > self._capacity:
            self._calls.popitem(last=False)


class InMemoryHttpCaller:
    """An outside world of scripted answers, by URL without its query.

    An answer of None never comes. `private` are hosts that are no public addresses. A URL without an answer cannot be
    reached.
    """

    def __init__(self, answers: Mapping[str, HttpResponse | None], private: frozenset[str] = frozenset()) -> None:
        """Answers from `answers`, and records each request."""
        self._answers = answers
        self._private = private
        self.requests: list[HttpRequest] = []

    async def call(self, request: HttpRequest) -> HttpResponse:
        """As `HttpCaller.call`."""
        self.requests.append(request)
        if request.public_only and request.url.host in self._private:
            raise FailedPrecondition("the tool may only call public addresses")
        url = str(request.url).partition("?")[0]
        if url not in self._answers:
            raise ToolUnavailable("the tool cannot be reached")
        answer = self._answers[url]
        if answer is None:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets the event")
        return HttpResponse(
            status=answer.status,
            content_type=answer.content_type,
            body=answer.body[: request.max_bytes],
            truncated=answer.truncated or len(answer.body) > request.max_bytes,
            location=answer.location,
        )
