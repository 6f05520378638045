"""What `InMemoryTurns` keeps of a session, and what may be done to it."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.kit.call import Principal
from services.kit.errors import Aborted, ApprovalInvalid, LeaseLost, RunNotFound, RunNotWaiting, SessionBusy
from services.kit.run_ids import session_of, write_run_id
from services.orchestrator.domain.agent import Message
from services.orchestrator.domain.run import Next, Standing, Stop, Turn, Waiting


def now() -> float:
    """Seconds of the clock that leases go by."""
    return asyncio.get_running_loop().time()


@dataclass
class KeptRun:
    """A run, and its log."""

    number: int
    request: tuple[str, bytes]
    record: bytes
    due_ms: int = 0
    token: int = 0
    lease_ends: float = 0.0
    entries: list[bytes] = field(default_factory=list)
    checkpoint: bytes = b""
    attempts: int = 0
    waiting: Waiting | None = None
    waits_until: float = 0.0
    answered: bool = False
    handed: bool = False
    response: bytes = b""
    queued: bool = False
    over: bool = False
    stop: Stop = Stop.NO

    @property
    def standing(self) -> Standing:
        """How it stands."""
        if self.over or self.queued:
            return Standing.OVER if self.over else Standing.QUEUED
        if self.waiting is not None:
            return Standing.QUEUED if self.waiting.what == "again" else Standing.WAITING
        return Standing.AT_WORK if self.record or self.lease_ends > now() else Standing.LOST

    def check_ready(self, wanted: int) -> None:
        """Returns when somebody may go on with it who wants the run of this number; 0: any."""
        if self.lease_ends > now() or wanted not in (0, self.number):
            ends_s = None if wanted else max(self.lease_ends - now(), 0.01)
            raise SessionBusy("another run holds the session", retry_after=ends_s)
        if self.waiting is None or self.stop or self.waits_until <= now():
            return
        if self.waiting.what == "again":
            raise SessionBusy("the run is tried again later", retry_after=self.waits_until - now())
        raise RunNotFound("no such run")

    def extend(self, first_sequence: int, entries: Sequence[bytes]) -> None:
        """Appends what the log does not have yet."""
        if first_sequence > len(self.entries) + 1:
            raise Aborted("an event before it is missing")
        known = self.entries[first_sequence - 1 :] if first_sequence else []
        if list(entries[: len(known)]) != known[: len(entries)]:
            raise LeaseLost("the log has another entry of that sequence")
        self.entries.extend(entries[len(known) :])


@dataclass
class KeptSession:
    """A session, and its runs in the order of their numbers."""

    owner: Principal
    agent: str
    history: list[Message] = field(default_factory=list)
    runs: list[KeptRun] = field(default_factory=list)
    approvals: dict[str, dict[str, object]] = field(default_factory=dict)
    tokens: int = 0
    current: KeptRun | None = None

    def due(self) -> list[KeptRun]:
        """Runs of the line that may begin, in their order."""
        return [run for run in self.runs if run.queued and run.due_ms <= time.time() * 1000]

    def check_due(self, wanted: int) -> None:
        """Returns unless the run of this number waits in the line and is not due yet."""
        early_s = self.runs[wanted - 1].due_ms / 1000 - time.time() if wanted else 0.0
        if early_s > 0 and self.runs[wanted - 1].queued:
            raise SessionBusy("the run is not due yet", retry_after=early_s)

    def take(self, session_id: str, run: KeptRun, lease_s: float) -> Turn:
        """Gives the session to a run, under a new token."""
        self.tokens += 1
        self.current = run
        run.token, run.lease_ends = self.tokens, now() + lease_s
        return Turn(write_run_id(session_id, run.number), run.token, False, self.agent, tuple(self.history))

    def next_after(self, run_id: str) -> Next | None:
        """The run of the line that may begin now that this one has ended."""
        due = self.due()
        if self.current is not None or not due:
            return None
        return Next(write_run_id(session_of(run_id), due[0].number), due[0].record)

    def unfinished(self) -> KeptRun | None:
        """The run that has the session. One that nobody could go on with, and nobody holds, has it no longer."""
        run = self.current
        if run is not None and (run.over or (not run.record and run.lease_ends <= now())):
            run = self.current = None
        return run

    def ask(self, waiting: Waiting) -> None:
        """Keeps what may be answered, for as long as a run waits."""
        if waiting.approval:
            expires_ms = int((time.time() + waiting.wait_s) * 1000)
            self.approvals[waiting.approval] = json.loads(waiting.entry) | {"expires_ms": expires_ms}

    def answer(self, run: KeptRun, approval: str, verdict: str, answer: tuple[str, bytes]) -> bool:
        """Uses an approval for a run: who answers, and what. False: it was used for the same before.

        Raises:
            ApprovalInvalid, RunNotWaiting: as `RunLog.respond`.
        """
        entry = self.approvals.get(approval, {})
        if entry.get("run") != run.number:
            raise ApprovalInvalid("the approval is another's")
        if entry.get("answer") == answer:
            return False
        if entry.get("state") != "open" or int(str(entry["expires_ms"])) < time.time() * 1000:
            raise ApprovalInvalid("the approval was used, or has expired")
        if run.over or run.waiting is None or run.waiting.what != "answer":
            raise RunNotWaiting("the run waits for no answer")
        if verdict != "denied" and (verdict == "answered") != bool(entry.get("client")):
            raise ApprovalInvalid("the approval is not good for this answer")
        entry.update(state=verdict, answer=answer)
        return True
