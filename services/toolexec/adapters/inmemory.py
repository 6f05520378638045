"""Fakes: the ports in this process, for tests and for a service that stands alone."""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta

from services.kit.call import Principal
from services.kit.errors import AgentNotFound, ApprovalInvalid, FailedPrecondition, ToolUnavailable
from services.kit.run_ids import session_of
from services.toolexec.domain import (
    AgentTools,
    Begun,
    CallKey,
    Finished,
    HttpRequest,
    HttpResponse,
    InProgress,
    Outcome,
    Url,
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


class InMemoryApprovals:
    """What persons have approved. A session belongs to the user who was given the first approval in it."""

    def __init__(self, clock: Clock) -> None:
        """Knows none."""
        self._clock = clock
        self._kept: dict[tuple[str, str, str], tuple[str, CallKey, float, str]] = {}

    def put(self, principal: Principal, key: CallKey, approval: str, state: str, lasts_s: float) -> None:
        """Writes one: `open`, `approved`, `denied` or `used`."""
        session_id = session_of(key.run_id)
        until = self._clock.monotonic() + lasts_s
        self._kept[principal.tenant, session_id, approval] = (principal.user, key, until, state)

    def check(self, principal: Principal, key: CallKey, approval: str) -> bool:
        """Whether it is unused. Raises ApprovalInvalid when it is not of this call, or was never given."""
        user, of, _, state = self._of(principal, key, approval)
        if (user, of) != (principal.user, key) or state not in {"approved", "used"}:
            raise ApprovalInvalid("the approval is another's, was used, or has expired")
        return state == "approved"

    def use(self, principal: Principal, key: CallKey, approval: str) -> None:
        """Uses it up. Raises ApprovalInvalid when it was, or has expired."""
        user, of, until, state = self._of(principal, key, approval)
        if state != "approved" or until <= self._clock.monotonic():
            raise ApprovalInvalid("the approval is another's, was used, or has expired")
        self._kept[principal.tenant, session_of(key.run_id), approval] = (user, of, until, "used")

    def _of(self, principal: Principal, key: CallKey, approval: str) -> tuple[str, CallKey, float, str]:
        session_id = session_of(key.run_id)
        return self._kept.get((principal.tenant, session_id, approval), ("", key, 0.0, ""))


class InMemoryResultStore:
    """Results in this process; the oldest go when there are too many."""

    def __init__(self, clock: Clock, capacity: int = 10_000) -> None:
        """Keeps `capacity` results, and has no approvals yet."""
        self._clock = clock
        self.approvals = InMemoryApprovals(clock)
        self._capacity = capacity
        self._calls: OrderedDict[_StoreKey, tuple[float, Begun | Finished]] = OrderedDict()

    async def begin(self, principal: Principal, key: CallKey, running_for: float) -> Begun | Finished | InProgress:
        """As `ResultStore.begin`."""
        return self._known(principal, key) or self._begin(principal, key, running_for)

    async def begin_approved(
        self, principal: Principal, key: CallKey, approval: str, running_for: float
    ) -> Begun | Finished | InProgress:
        """As `ResultStore.begin_approved`."""
        self.approvals.check(principal, key, approval)
        known = self._known(principal, key)
        if known is None:
            self.approvals.use(principal, key, approval)
        return known or self._begin(principal, key, running_for)

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

    def _known(self, principal: Principal, key: CallKey) -> Finished | InProgress | None:
        until, state = self._calls.get((principal.tenant, principal.user, key), (0.0, None))
        if state is None or until <= self._clock.monotonic():
            return None
        return state if isinstance(state, Finished) else InProgress()

    def _begin(self, principal: Principal, key: CallKey, running_for: float) -> Begun:
        begun = Begun(secrets.token_hex(8))
        self._keep((principal.tenant, principal.user, key), running_for, begun)
        return begun

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

    async def check(self, url: Url) -> None:
        """As `HttpCaller.check`."""
        if url.host in self._private:
            raise FailedPrecondition("the tool may only call public addresses")

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
