"""The store side of turns without a store: for tests and for trying things out. It forgets when the process ends."""

from collections.abc import Sequence
from dataclasses import replace

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal, current_principal
from services.kit.errors import RequestIdReused, RunNotFound, SessionBusy
from services.kit.run_ids import session_of, write_run_id
from services.orchestrator.adapters.inmemory_log import InMemoryRunLog
from services.orchestrator.adapters.inmemory_sessions import KeptRun, KeptSession, now
from services.orchestrator.domain.agent import Message
from services.orchestrator.domain.run import Concurrency, Grant, Next, Request, Resumed, Stop, Turn


class InMemoryTurns(InMemoryRunLog):
    """`ports.Memory` over the sessions of the run log.

    Attributes:
        granted: What each run may spend.
        renews_ms: When there is more.
        wanted: What runs wanted beyond what they had.
    """

    def __init__(self, lease_s: float = 30.0) -> None:
        """As `InMemoryRunLog`."""
        super().__init__(lease_s)
        self.granted, self.renews_ms = NO_AMOUNTS, 0
        self.wanted: list[Amounts] = []

    def history(self, principal: Principal, session_id: str) -> list[Message]:
        """All that was said in a session."""
        return self._session(principal, session_id).history

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
                current.stop = max(current.stop, Stop.ROLL_BACK if rolls_back else Stop.STOP)
                self.notices.tell_stop(session.owner, write_run_id(session_id, current.number))
            return Turn(write_run_id(session_id, run.number), 0, False, session.agent, (), True, position)
        return self._grant(session.take(session_id, run, lease_s))

    async def resume_turn(self, session_id: str, lease_s: float, run: int = 0) -> Resumed:
        """Goes on in a session."""
        session = self._session(current_principal(), session_id)
        current = session.unfinished()
        if run and session.runs[run - 1].over:
            raise RunNotFound("no such run")
        session.check_due(run)
        if current is None:
            current = next(iter(session.due()), None)
            if current is None or run not in (0, current.number):
                raise SessionBusy("another run is first") if run else RunNotFound("no such run")
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

    def _check_other_sessions(self, session: KeptSession, request_id: str) -> None:
        mine = (each for each in self._sessions.values() if each.owner == session.owner and each is not session)
        if request_id and any(run.request[0] == request_id for each in mine for run in each.runs):
            raise RequestIdReused("the request id was used before in another session")

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
