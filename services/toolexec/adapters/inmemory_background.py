"""Fakes of what stands behind tools in the background and callbacks."""

from dataclasses import dataclass, replace

from services.kit.call import Principal
from services.kit.errors import ExecutionNotFound, RunNotFound, RunNotWaiting
from services.kit.run_ids import session_of
from services.toolexec.adapters.inmemory import InMemoryApprovals
from services.toolexec.domain import Background, BackgroundCall, CallbackState, CallKey, Outcome, State
from services.toolexec.ports import Clock

_Name = tuple[str, str, CallKey]


@dataclass
class _Kept:
    until: float
    found: Background
    ticket: str = ""
    attempts: int = 0


class InMemoryExecutions:
    """Tools in the background, in this process."""

    def __init__(self, clock: Clock, approvals: InMemoryApprovals | None = None) -> None:
        """Knows none."""
        self._clock = clock
        self._kept: dict[_Name, _Kept] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self.approvals = approvals or InMemoryApprovals(clock)

    def open_session(self, principal: Principal, session_id: str) -> None:
        """Makes a session the principal's. One that nobody opened is anybody's."""
        self._owners[principal.tenant, session_id] = principal.user

    async def begin(
        self, principal: Principal, key: CallKey, call: BackgroundCall, approval: str, wait_for: float
    ) -> Background:
        """As `Executions.begin`."""
        owner = self._owners.get((principal.tenant, session_of(key.run_id)), principal.user)
        if owner != principal.user:
            raise RunNotFound("no such run")
        is_new = bool(approval) and self.approvals.check(principal, key, approval)
        known = self._of(principal, key)
        if known is None or (is_new and known.found.state in {State.FAILED, State.CANCELLED}):
            if approval:
                self.approvals.use(principal, key, approval)
            known = _Kept(self._clock.monotonic() + wait_for, Background(State.RUNNING, call))
            self._kept[_name(principal, key)] = known
        return known.found

    async def stopped(self, running: list[tuple[Principal, CallKey, str]]) -> list[bool]:
        """As `Executions.stopped`."""
        return [not self._runs(principal, key, ticket) for principal, key, ticket in running]

    async def read(self, principal: Principal, key: CallKey) -> Background:
        """As `Executions.read`."""
        return self._there(principal, key).found

    async def take(self, principal: Principal, key: CallKey, ticket: str, attempts: int, keep_for: float) -> Background:
        """As `Executions.take`."""
        kept = self._there(principal, key)
        if kept.found.state is State.RUNNING:
            if (kept.ticket and kept.found.call.once) or kept.attempts >= attempts:
                self._end(kept, State.FAILED, None, "EXECUTION_INTERRUPTED", keep_for)
            else:
                kept.ticket, kept.attempts = ticket, kept.attempts + 1
        return kept.found

    async def release(self, principal: Principal, key: CallKey, ticket: str) -> None:
        """As `Executions.release`."""
        if self._runs(principal, key, ticket):
            kept = self._there(principal, key)
            if not kept.found.call.once:
                kept.ticket, kept.attempts = "", kept.attempts - 1

    async def finish(
        self,
        principal: Principal,
        key: CallKey,
        ticket: str,
        state: State,
        outcome: Outcome | None,
        reason: str,
        keep_for: float,
    ) -> bool:
        """As `Executions.finish`."""
        if not self._runs(principal, key, ticket):
            return False
        self._end(self._there(principal, key), state, outcome, reason, keep_for)
        return True

    async def cancel(self, principal: Principal, key: CallKey, keep_for: float) -> Background:
        """As `Executions.cancel`."""
        kept = self._there(principal, key)
        if kept.found.state is State.RUNNING:
            self._end(kept, State.CANCELLED, None, "EXECUTION_CANCELLED", keep_for)
        return kept.found

    def _of(self, principal: Principal, key: CallKey) -> _Kept | None:
        kept = self._kept.get(_name(principal, key))
        return kept if kept and kept.until > self._clock.monotonic() else None

    def _there(self, principal: Principal, key: CallKey) -> _Kept:
        kept = self._of(principal, key)
        if kept is None:
            raise ExecutionNotFound("no such execution of a tool")
        return kept

    def _runs(self, principal: Principal, key: CallKey, ticket: str) -> bool:
        kept = self._of(principal, key)
        return kept is not None and kept.found.state is State.RUNNING and kept.ticket == ticket

    def _end(self, kept: _Kept, state: State, outcome: Outcome | None, reason: str, keep_for: float) -> None:
        kept.found = replace(kept.found, state=state, outcome=outcome, reason=reason)
        kept.until = self._clock.monotonic() + keep_for


class InMemoryRuns:
    """Runs that wait, by run and call."""

    def __init__(self) -> None:
        """No run waits, and none is there."""
        self.waiting: dict[tuple[str, str], str] = {}
        """Tenant and run to the call it waits for; empty: it is at work."""
        self.told: dict[tuple[str, str], bytes] = {}
        self._woken: dict[tuple[str, str], str] = {}

    def park(self, principal: Principal, run_id: str, tool_call_id: str) -> None:
        """Lets a run wait for a call; for none: lets it work."""
        self.waiting[principal.tenant, run_id] = tool_call_id
        self._woken.pop((principal.tenant, run_id), None)

    async def wake(self, principal: Principal, run_id: str, tool_call_id: str, response: bytes) -> None:
        """As `Runs.wake`."""
        name = (principal.tenant, run_id)
        if name not in self.waiting:
            raise RunNotFound("no such run")
        if tool_call_id not in {self.waiting[name], self._woken.get(name)}:
            raise RunNotWaiting("the run waits for no answer")
        self.waiting[name], self._woken[name] = "", tool_call_id
        self.told[name] = response


class InMemoryCallbacks:
    """What became of callbacks, in this process."""

    def __init__(self) -> None:
        """Knows none."""
        self.kept: dict[tuple[str, str], tuple[CallbackState, int, str]] = {}
        """Tenant and run to state, attempts and reason."""

    async def begin(self, principal: Principal, run_id: str) -> tuple[CallbackState, int]:
        """As `Callbacks.begin`."""
        state, attempts, reason = self._of(principal, run_id)
        if state is CallbackState.PENDING:
            attempts += 1
            self.kept[principal.tenant, run_id] = (state, attempts, reason)
        return state, attempts

    async def note(self, principal: Principal, run_id: str, state: CallbackState, reason: str) -> None:
        """As `Callbacks.note`."""
        known, attempts, _ = self._of(principal, run_id)
        if known is CallbackState.PENDING:
            self.kept[principal.tenant, run_id] = (state, attempts, reason)

    def _of(self, principal: Principal, run_id: str) -> tuple[CallbackState, int, str]:
        return self.kept.get((principal.tenant, run_id), (CallbackState.PENDING, 0, ""))


def _name(principal: Principal, key: CallKey) -> _Name:
    return principal.tenant, principal.user, key
