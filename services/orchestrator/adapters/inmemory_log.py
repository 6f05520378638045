"""The run log without a store: for tests and for trying things out. It forgets when the process ends."""

import json
from collections.abc import Sequence

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.errors import LeaseLost, RunNotFound, ServiceError, SessionNotFound
from services.kit.run_ids import read_run_id, session_of, write_run_id
from services.orchestrator.adapters.inmemory_notices import InMemoryNotices
from services.orchestrator.adapters.inmemory_sessions import KeptRun, KeptSession, now
from services.orchestrator.domain.run import Dropped, Next, Page, Responded, Standing, Stop, Turn, Waiting


class InMemoryRunLog:
    """`ports.RunLog` over one dictionary.

    Attributes:
        notices: Told of what changes.
        spent: By run, what it has.
    """

    def __init__(self, lease_s: float = 30.0) -> None:
        """Knows no session. An append holds a session for `lease_s` seconds."""
        self.notices = InMemoryNotices()
        self.spent: dict[str, Amounts] = {}
        self._lease_s = lease_s
        self._sessions: dict[tuple[str, str], KeptSession] = {}

    def add_session(self, owner: Principal, session_id: str, agent: str) -> None:
        """Makes a session."""
        self._sessions[owner.tenant, session_id] = KeptSession(owner, agent)

    def approvals(self, principal: Principal, session_id: str) -> dict[str, dict[str, object]]:
        """What may be answered in a session."""
        return self._session(principal, session_id).approvals

    async def append(
        self, principal: Principal, turn: Turn, first_sequence: int, entries: Sequence[bytes], checkpoint: bytes = b""
    ) -> Stop:
        """Appends entries."""
        run = self._writable(principal, turn)
        run.extend(first_sequence, entries)
        if checkpoint:
            run.checkpoint, run.response = checkpoint, b""
        run.lease_ends = now() + self._lease_s
        if entries:
            self.notices.tell(principal, turn.run_id)
        return run.stop

    async def let_go(self, principal: Principal, turn: Turn) -> None:
        """Holds the session no longer."""
        run = self._writable(principal, turn)
        run.lease_ends, run.handed = 0.0, True

    async def hold(self, runs: Sequence[tuple[Principal, Turn]]) -> list[Stop | ServiceError]:
        """Holds the sessions of many runs on."""
        return [await self._hold(principal, turn) for principal, turn in runs]

    async def _hold(self, principal: Principal, turn: Turn) -> Stop | ServiceError:
        try:
            return await self.append(principal, turn, 0, [])
        except LeaseLost as error:
            return error

    async def park(
        self,
        principal: Principal,
        turn: Turn,
        first_sequence: int,
        entries: Sequence[bytes],
        checkpoint: bytes,
        waiting: Waiting,
        spent: Amounts = NO_AMOUNTS,
    ) -> Stop:
        """Appends entries and lets the run wait."""
        run = self._writable(principal, turn)
        if run.stop:
            return run.stop
        self.spent[turn.run_id] = spent
        run.extend(first_sequence, entries)
        run.checkpoint, run.lease_ends, run.token = checkpoint, 0.0, 0
        if waiting.what != "again":
            run.response = b""
        run.waiting, run.waits_until = waiting, now() + waiting.wait_s
        self._session(principal, session_of(turn.run_id)).ask(waiting)
        self.notices.tell(principal, turn.run_id)
        return Stop.NO

    async def respond(
        self, principal: Principal, run_id: str, approval: str, verdict: str, response: bytes, *, any_user: bool
    ) -> Responded:
        """Gives a run the answer it waits for."""
        session = self._sessions.get((principal.tenant, session_of(run_id)))
        owner = session.owner if session and any_user else principal
        run = self._run(owner, run_id)
        assert session is not None
        if session.answer(run, approval, verdict, (principal.user, response)):
            self.wake(owner, run_id, response)
        remaining = json.loads(str(session.approvals[approval].get("remaining", "[]")))
        return Responded(Principal(owner.tenant, owner.user), Amounts(*remaining))

    def wake(self, principal: Principal, run_id: str, response: bytes) -> None:
        """Gives a run what it waits for."""
        run = self._run(principal, run_id)
        run.response, run.waiting, run.answered = response, None, True
        self.notices.tell(principal, run_id)

    async def announce(self, principal: Principal, run_id: str, entries: Sequence[bytes]) -> bool:
        """Begins the log of a run that stands in the line."""
        run = self._run(principal, run_id)
        if not run.queued or run.entries:
            return False
        run.entries.extend(entries)
        self.notices.tell(principal, run_id)
        return True

    async def drop(
        self, principal: Principal, run_id: str, first_sequence: int, entries: Sequence[bytes]
    ) -> Dropped | None:
        """Ends a run that stands in the line."""
        run = self._run(principal, run_id)
        if not run.queued:
            return None
        run.extend(first_sequence, entries)
        return self._leave_line(principal, run_id, run)

    async def undo(self, principal: Principal, run_id: str, request_id: str) -> Dropped | None:
        """Takes a run that stands in the line back."""
        run = self._run(principal, run_id)
        if not run.queued or run.entries:
            return None
        run.request = ("", b"")
        return self._leave_line(principal, run_id, run)

    def _leave_line(self, principal: Principal, run_id: str, run: KeptRun) -> Dropped:
        run.queued, run.over = False, True
        self.notices.tell(principal, run_id)
        return Dropped(run.record, run.due_ms, self._session(principal, session_of(run_id)).next_after(run_id))

    async def later(self, principal: Principal, session_id: str) -> Sequence[tuple[Next, int]]:
        """Runs of the line that are not due yet."""
        session = self._session(principal, session_id)
        waiting = [run for run in session.runs if run.queued and run not in session.due()]
        return [(Next(write_run_id(session_id, run.number), run.record), run.due_ms) for run in waiting]

    async def read(self, principal: Principal, run_id: str, after_sequence: int, limit: int) -> Page:
        """Entries after a sequence."""
        run = self._run(principal, run_id)
        if run.over and not run.entries:
            raise RunNotFound("no such run")
        return Page(tuple(run.entries[after_sequence : after_sequence + limit]), run.standing)

    async def bounds(self, principal: Principal, run_id: str) -> tuple[bytes, bytes, Standing]:
        """The first and the newest entry, and how the run stands."""
        run = self._run(principal, run_id)
        if not run.entries:
            raise RunNotFound("no such run")
        return run.entries[0], run.entries[-1], run.standing

    async def request_cancel(self, principal: Principal, run_id: str) -> Standing:
        """Asks whoever owns the run to stop it."""
        run = self._run(principal, run_id)
        if run.over or run.queued:
            return Standing.OVER if run.over else Standing.QUEUED
        run.stop = run.stop or Stop.STOP
        self.notices.tell_stop(principal, run_id)
        return Standing.AT_WORK if run.lease_ends > now() else Standing.WAITING

    def _session(self, principal: Principal, session_id: str) -> KeptSession:
        session = self._sessions.get((principal.tenant, session_id))
        if session is None or session.owner.user != principal.user:
            raise SessionNotFound("no such session")
        return session

    def _run(self, principal: Principal, run_id: str) -> KeptRun:
        session_id, number = read_run_id(run_id)
        session = self._sessions.get((principal.tenant, session_id))
        if session is None or session.owner.user != principal.user or not 0 < number <= len(session.runs):
            raise RunNotFound("no such run")
        return session.runs[number - 1]

    def _writable(self, principal: Principal, turn: Turn) -> KeptRun:
        run = self._run(principal, turn.run_id)
        session = self._session(principal, session_of(turn.run_id))
        if run is not session.current or run.over or run.token != turn.fencing_token:
            raise LeaseLost("a later turn holds the session, or this one has ended")
        return run
