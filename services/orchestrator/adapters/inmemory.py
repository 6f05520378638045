"""The store side of turns without a store: for tests and for trying things out. It forgets when the process ends."""

from collections.abc import Sequence
from dataclasses import replace

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal, current_principal
from services.kit.errors import (
    LeaseLost,
    RequestIdReused,
    RunNotFound,
    ServiceError,
    SessionBusy,
    SessionNotFound,
)
from services.kit.run_ids import read_run_id, session_of, write_run_id
from services.orchestrator.adapters.inmemory_notices import InMemoryNotices
from services.orchestrator.adapters.inmemory_sessions import KeptRun, KeptSession, now
from services.orchestrator.domain.agent import Message
from services.orchestrator.domain.run import (
    Concurrency,
    Dropped,
    Grant,
    Next,
    Page,
    Request,
    Resumed,
    Standing,
    Stop,
    Turn,
    Waiting,
)


class InMemoryTurns:
    """`ports.Memory` and `ports.RunLog` over one dictionary.

    Attributes:
        granted: What each run may spend.
        renews_ms: When there is more.
        wanted: What runs wanted beyond what they had.
        spent: By run, what it has.
    """

    def __init__(self, lease_s: float = 30.0) -> None:
        """Knows no session. An append holds a session for `lease_s` seconds."""
        self.notices = InMemoryNotices()
        self.granted, self.renews_ms = NO_AMOUNTS, 0
        self.wanted: list[Amounts] = []
        self.spent: dict[str, Amounts] = {}
        self._lease_s = lease_s
        self._sessions: dict[tuple[str, str], KeptSession] = {}

    def add_session(self, owner: Principal, session_id: str, agent: str) -> None:
        """Makes a session."""
        self._sessions[owner.tenant, session_id] = KeptSession(owner, agent)

    def history(self, principal: Principal, session_id: str) -> list[Message]:
        """All that was said in a session."""
        return self._session(principal, session_id).history

    def approvals(self, principal: Principal, session_id: str) -> dict[str, dict[str, object]]:
        """What may be answered in a session."""
        return self._session(principal, session_id).approvals

    async def begin_turn(
        self, request: Request, digest: bytes, lease_s: float, record: bytes = b"", wanted: Amounts = NO_AMOUNTS
    ) -> Turn:
        """Takes the session for a run, or puts the run into its line."""
        session_id = request.session_id
        session = self._session(current_principal(), session_id)
        self._check_other_sessions(session, request.request_id)
        for run in session.runs:
            if request.request_id and run.request[0] == request.request_id:
                if run.request[1] != digest:
                    raise RequestIdReused("the request id was used before with another body")
                return Turn(write_run_id(session_id, run.number), 0, True, "", ())
        current = session.unfinished()
        position = len(session.due()) + (current is not None)
        if position and (request.concurrency is Concurrency.REJECT or not record):
            ends = current.lease_ends - now() if current else 0.0
            raise SessionBusy("another run holds the session", retry_after=max(ends, 1.0))
        run = KeptRun(len(session.runs) + 1, (request.request_id, digest), record, request.due_ms)
        session.runs.append(run)
        if position or request.queue:
            run.queued = True
            if current and request.concurrency is not Concurrency.ENQUEUE:
                rolls_back = request.concurrency is Concurrency.ROLLBACK
                current.stop = Stop.ROLL_BACK if rolls_back else Stop.STOP
                self.notices.tell_stop(session.owner, write_run_id(session_id, current.number))
            return Turn(write_run_id(session_id, run.number), 0, False, session.agent, (), True, position)
        return self._grant(session.take(session_id, run, lease_s))

    async def resume_turn(self, session_id: str, lease_s: float, run: int = 0) -> Resumed:
        """Goes on in a session."""
        session = self._session(current_principal(), session_id)
        current = session.unfinished()
        if run and session.runs[run - 1].over:
            raise RunNotFound("no such run")
        if current is None:
            current = next(iter(session.due()), None)
            if current is None or run not in (0, current.number):
                waits = any(each.queued and each.number == run for each in session.runs)
                raise SessionBusy("another run is first", retry_after=1.0) if waits else RunNotFound("no such run")
            current.queued = False
        else:
            current.check_ready(run)
            if current.waiting is None and not current.answered and not current.handed:
                current.attempts += 1
            current.waiting, current.answered, current.handed = None, False, False
        turn = self._grant(session.take(session_id, current, lease_s))
        return Resumed(turn, current.record, current.checkpoint, current.attempts, current.response)

    async def extend_turn(self, turn: Turn, wanted: Amounts) -> Grant:
        """Has more set apart for a run: as much as each may spend by now."""
        self._writable(current_principal(), turn)
        self.wanted.append(wanted)
        return Grant(self.granted, self.renews_ms, self.granted)

    async def commit_turn(
        self,
        turn: Turn,
        messages: Sequence[Message],
        last: Sequence[bytes],
        sequence: int,
        spent: Amounts = NO_AMOUNTS,
    ) -> Next | None:
        """Ends a turn that is kept."""
        session = self._session(current_principal(), session_of(turn.run_id))
        if self._end(turn, last, sequence, spent):
            session.history.extend(messages)
        return session.next_after(turn.run_id)

    async def abandon_turn(
        self, turn: Turn, last: Sequence[bytes], sequence: int, spent: Amounts = NO_AMOUNTS
    ) -> Next | None:
        """Ends a turn that leaves nothing in the history."""
        self._end(turn, last, sequence, spent)
        return self._session(current_principal(), session_of(turn.run_id)).next_after(turn.run_id)

    async def agent_of(self, session_id: str) -> str:
        """Name of the agent the session is with."""
        return self._session(current_principal(), session_id).agent

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
        run.checkpoint, run.response, run.lease_ends, run.token = checkpoint, b"", 0.0, 0
        run.waiting, run.waits_until = waiting, now() + waiting.wait_s
        self._session(principal, session_of(turn.run_id)).ask(waiting)
        self.notices.tell(principal, turn.run_id)
        return Stop.NO

    async def respond(
        self, principal: Principal, run_id: str, approval: str, verdict: str, response: bytes, *, any_user: bool
    ) -> Principal:
        """Gives a run the answer it waits for."""
        session = self._sessions.get((principal.tenant, session_of(run_id)))
        owner = session.owner if session and any_user else principal
        run = self._run(owner, run_id)
        assert session is not None
        if session.answer(run, approval, verdict, (principal.user, response)):
            self.wake(owner, run_id, response)
        return Principal(owner.tenant, owner.user)

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
        if not run.queued:
            return None
        run.request = ("", b"")
        run.entries.clear()
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

    def _check_other_sessions(self, session: KeptSession, request_id: str) -> None:
        mine = (each for each in self._sessions.values() if each.owner == session.owner and each is not session)
        if request_id and any(run.request[0] == request_id for each in mine for run in each.runs):
            raise RequestIdReused("the request id was used before in another session")

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

    def _grant(self, turn: Turn) -> Turn:
        return replace(turn, granted=self.granted, renews_ms=self.renews_ms, left=self.granted)

    def _end(self, turn: Turn, last: Sequence[bytes], sequence: int, spent: Amounts) -> bool:
        """Ends a run. False: it had ended so already."""
        principal = current_principal()
        run = self._run(principal, turn.run_id)
        if run.over and run.entries[sequence - 1 :] == list(last):
            return False
        self._writable(principal, turn).extend(sequence, last)
        run.over = True
        self.spent[turn.run_id] = spent
        self._session(principal, session_of(turn.run_id)).current = None
        self.notices.tell(principal, turn.run_id)
        return True
