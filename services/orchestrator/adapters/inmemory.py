"""The store side of turns without a store: for tests and for trying things out. It forgets when the process ends."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.kit.call import Principal, current_principal
from services.kit.errors import LeaseLost, RequestIdReused, RunNotFound, ServiceError, SessionBusy, SessionNotFound
from services.orchestrator.domain import Message, Page, Resumed, Turn


@dataclass
class _Run:
    token: int
    request: tuple[str, bytes]
    lease_ends: float
    entries: list[bytes] = field(default_factory=list)
    record: bytes = b""
    checkpoint: bytes = b""
    attempts: int = 0
    over: bool = False
    stop: bool = False


@dataclass
class _Session:
    owner: Principal
    agent: str
    history: list[Message] = field(default_factory=list)
    runs: list[_Run] = field(default_factory=list)
    tokens: int = 0


class InMemoryTurns:
    """`ports.Memory` and `ports.RunLog` over one dictionary."""

    def __init__(self, lease_s: float = 30.0) -> None:
        """Knows no session. An append holds a session for `lease_s` seconds."""
        self._lease_s = lease_s
        self._sessions: dict[tuple[str, str], _Session] = {}

    def add_session(self, owner: Principal, session_id: str, agent: str) -> None:
        """Makes a session."""
        self._sessions[owner.tenant, session_id] = _Session(owner, agent)

    def history(self, principal: Principal, session_id: str) -> list[Message]:
        """All that was said in a session."""
        return self._session(principal, session_id).history

    async def begin_turn(
        self, session_id: str, request_id: str, digest: bytes, lease_s: float, record: bytes = b""
    ) -> Turn:
        """Takes the session for a run."""
        session = self._session(current_principal(), session_id)
        for number, run in enumerate(session.runs, 1):
            if request_id and run.request[0] == request_id:
                if run.request[1] != digest:
                    raise RequestIdReused("the request id was used before with another body")
                if run is session.runs[-1] and not run.over and not run.entries and not _is_leased(run):
                    session.tokens += 1
                    run.token = session.tokens
                    run.lease_ends = asyncio.get_running_loop().time() + lease_s
                    return Turn(f"{session_id}.{number}", run.token, False, session.agent, tuple(session.history))
                return Turn(f"{session_id}.{number}", 0, True, "", ())
        now = asyncio.get_running_loop().time()
        if session.runs and not session.runs[-1].over and session.runs[-1].lease_ends > now:
            raise SessionBusy("another run holds the session", retry_after=session.runs[-1].lease_ends - now)
        if session.runs and not session.runs[-1].over and session.runs[-1].record:
            raise SessionBusy("another run holds the session", retry_after=1.0)
        session.tokens += 1
        session.runs.append(_Run(session.tokens, (request_id, digest), now + lease_s, record=record))
        number = len(session.runs)
        return Turn(f"{session_id}.{number}", session.tokens, False, session.agent, tuple(session.history))

    async def resume_turn(self, session_id: str, lease_s: float) -> Resumed:
        """Takes over the session's unfinished run."""
        session = self._session(current_principal(), session_id)
        run = session.runs[-1] if session.runs else None
        if run is None or run.over or not run.record:
            raise RunNotFound("no such run")
        now = asyncio.get_running_loop().time()
        if run.lease_ends > now:
            raise SessionBusy("another run holds the session", retry_after=run.lease_ends - now)
        session.tokens += 1
        run.token, run.lease_ends, run.attempts = session.tokens, now + lease_s, run.attempts + 1
        turn = Turn(f"{session_id}.{len(session.runs)}", run.token, False, session.agent, tuple(session.history))
        return Resumed(turn, run.record, run.checkpoint, run.attempts)

    async def commit_turn(self, turn: Turn, messages: Sequence[Message], last: Sequence[bytes], sequence: int) -> None:
        """Ends a turn that is kept."""
        if self._end(turn, last, sequence):
            self._session(current_principal(), turn.run_id.rpartition(".")[0]).history.extend(messages)

    async def abandon_turn(self, turn: Turn, last: Sequence[bytes], sequence: int) -> None:
        """Ends a turn that leaves nothing in the history."""
        self._end(turn, last, sequence)

    async def agent_of(self, session_id: str) -> str:
        """Name of the agent a session is with."""
        return self._session(current_principal(), session_id).agent

    async def append(
        self, principal: Principal, turn: Turn, first_sequence: int, entries: Sequence[bytes], checkpoint: bytes = b""
    ) -> bool:
        """Appends entries."""
        run = self._writable(principal, turn)
        _extend(run, first_sequence, entries)
        run.checkpoint = checkpoint or run.checkpoint
        run.lease_ends = asyncio.get_running_loop().time() + self._lease_s
        return run.stop

    async def let_go(self, principal: Principal, turn: Turn) -> None:
        """Holds the session no longer."""
        self._writable(principal, turn).lease_ends = 0.0

    async def hold(self, runs: Sequence[tuple[Principal, Turn]]) -> list[bool | ServiceError]:
        """Holds the sessions of many runs on."""
        return [await self._hold(principal, turn) for principal, turn in runs]

    async def _hold(self, principal: Principal, turn: Turn) -> bool | ServiceError:
        try:
            return await self.append(principal, turn, 0, [])
        except LeaseLost as error:
            return error

    async def read(self, principal: Principal, run_id: str, after_sequence: int, limit: int) -> Page:
        """Entries after a sequence."""
        run = self._run(principal, run_id)
        return Page(tuple(run.entries[after_sequence : after_sequence + limit]), run.over, self._is_held(run))

    async def bounds(self, principal: Principal, run_id: str) -> tuple[bytes, bytes, bool]:
        """The first and the newest entry, and whether someone works on the run."""
        run = self._run(principal, run_id)
        if not run.entries:
            raise RunNotFound("no such run")
        return run.entries[0], run.entries[-1], self._is_held(run)

    async def request_cancel(self, principal: Principal, run_id: str) -> None:
        """Asks whoever owns the run to stop it."""
        run = self._run(principal, run_id)
        run.stop = run.stop or not run.over

    @staticmethod
    def _is_held(run: _Run) -> bool:
        return not run.over and (bool(run.record) or run.lease_ends > asyncio.get_running_loop().time())

    def _session(self, principal: Principal, session_id: str) -> _Session:
        session = self._sessions.get((principal.tenant, session_id))
        if session is None or session.owner.user != principal.user:
            raise SessionNotFound("no such session")
        return session

    def _run(self, principal: Principal, run_id: str) -> _Run:
        session_id, _, number = run_id.rpartition(".")
        session = self._sessions.get((principal.tenant, session_id))
        if session is None or session.owner.user != principal.user or not 0 < int(number) <= len(session.runs):
            raise RunNotFound("no such run")
        return session.runs[int(number) - 1]

    def _writable(self, principal: Principal, turn: Turn) -> _Run:
        run = self._run(principal, turn.run_id)
        latest = self._session(principal, turn.run_id.rpartition(".")[0]).runs[-1]
        if run is not latest or run.over or run.token != turn.fencing_token:
            raise LeaseLost("a later turn holds the session, or this one has ended")
        return run

    def _end(self, turn: Turn, last: Sequence[bytes], sequence: int) -> bool:
        """Ends a run. False: it had ended so already."""
        run = self._run(current_principal(), turn.run_id)
        if run.over and run.entries[sequence - 1 :] == list(last):
            return False
        _extend(self._writable(current_principal(), turn), sequence, last)
        run.over = True
        return True


def _extend(run: _Run, first_sequence: int, entries: Sequence[bytes]) -> None:
    """Appends what the log does not have yet."""
    known = run.entries[first_sequence - 1 :]
    if list(entries[: len(known)]) != known[: len(entries)]:
        raise LeaseLost("the log has another entry of that sequence")
    run.entries.extend(entries[len(known) :])


def _is_leased(run: _Run) -> bool:
    return run.lease_ends > asyncio.get_running_loop().time()


class InMemoryOwners:
    """`ports.Owners` of one process among those that share a dictionary."""

    def __init__(self, shared: dict[str, set[tuple[Principal, str]]], gone: set[str], name: str) -> None:
        """A process by this name; `gone` are those that no longer live."""
        self._shared = shared
        self._me = name
        self._gone = gone
        shared[name] = set()

    async def beat(self) -> Sequence[str]:
        """Says that this process lives."""
        return sorted(self._gone - {self._me})

    async def hold(self, principal: Principal, session_id: str) -> None:
        """Says that this process works in a session."""
        self._shared[self._me].add((Principal(principal.tenant, principal.user), session_id))

    async def release(self, sessions: Sequence[tuple[Principal, str]]) -> None:
        """Says that it no longer does."""
        self._shared[self._me] -= {(Principal(who.tenant, who.user), session_id) for who, session_id in sessions}

    async def leave(self) -> None:
        """Says that this process is gone."""
        self._gone.add(self._me)

    async def take(self, gone: str) -> None:
        """Makes all sessions of a process that is gone this process's own."""
        if gone in self._gone:
            self._shared[self._me] |= self._shared[gone]
            self._shared[gone] = set()

    async def mine(self) -> Sequence[tuple[Principal, str]]:
        """Sessions that are this process's own."""
        return sorted(self._shared[self._me], key=lambda each: each[1])
