"""What is done to runs from outside: they are stopped, and given the answers they wait for."""

import hashlib
import time
from dataclasses import replace

from services.kit.call import Principal
from services.kit.errors import CheckpointBroken, DeadlineExceeded, Overloaded, Unavailable
from services.kit.run_ids import session_of
from services.orchestrator.core.callbacks import Callbacks
from services.orchestrator.core.dispatch import Dispatch
from services.orchestrator.core.driver import Driver
from services.orchestrator.core.resuming import whole_log
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.core.takeover import Takeover
from services.orchestrator.core.untold import UntoldStops
from services.orchestrator.domain.log import Cancelled
from services.orchestrator.domain.run import Answer, Dropped, Responded, Standing
from services.orchestrator.domain.turn import Usage
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import RunLog

_TRIES = 5


class Intervening:
    """Reaches runs wherever they are: at work here or elsewhere, waiting, or in the lines of their sessions."""

    def __init__(
        self,
        run_log: RunLog,
        codec: Codec,
        events: RunEvents,
        callbacks: Callbacks,
        driver: Driver,
        dispatch: Dispatch,
        takeover: Takeover,
        untold: UntoldStops,
    ) -> None:
        """Tells `run_log`, and goes on with what follows by the others, as `Runs` does."""
        self._log, self._codec, self._events, self._callbacks = run_log, codec, events, callbacks
        self._driver, self._dispatch, self._takeover, self._untold = driver, dispatch, takeover, untold

    async def cancel(self, principal: Principal, run_id: str) -> None:
        """Tells a run to stop, whoever works on it. One that nobody works on ends at once.

        When this returns the store knows of it: the run is stopped though who works on it is killed just now.

        Raises:
            RunNotFound: the caller has no such run.
            Overloaded: it has not begun, and too many callbacks wait here.
            StoreUnavailable: the store could not be told. What works on it here stops all the same.
        """
        run = self._driver.find(principal, run_id)
        if run is not None:
            run.stop()
        # Before anything is done: should this process die in the middle of it, another goes on in the session.
        await self._takeover.hold(principal, session_of(run_id))
        for _ in range(_TRIES):  # it may begin, or end, just now
            standing = await self._log.request_cancel(principal, run_id)
            if standing is Standing.QUEUED and not await self._drop(principal, run_id):
                continue
            if standing is Standing.WAITING:
                self._takeover.go_on(principal, session_of(run_id))
            return

    async def leave(self, principal: Principal, run_id: str) -> None:
        """Stops a run whose client has gone.

        Nobody waits for word of that, and a thousand may go at once: of a run that is at work here the store hears when
        it ends, or when that cannot be written; of another, as soon as it can be told.

        Raises:
            RunNotFound: the caller has no such run.
        """
        run = self._driver.find(principal, run_id)
        if run is not None:
            return run.stop()
        try:
            await self.cancel(principal, run_id)
        except (Unavailable, DeadlineExceeded, Overloaded):
            self._untold.keep(principal, run_id)

    async def _drop(self, principal: Principal, run_id: str) -> bool:
        """Ends a run that stands in the line. False: it does not any more."""
        self._callbacks.check_room()
        entries = await whole_log(self._log, principal, run_id)
        sequence = len(entries) + 1
        last = self._codec.encode(run_id, sequence, Cancelled("", Usage()))
        dropped = await self._log.drop(principal, run_id, sequence, [last])
        if dropped is None:
            return False
        await self._dispatch.left_line(principal, run_id, dropped)
        self._events.ended_as_logged(principal, run_id, entries[0] if entries else last, last)
        url = self._callback_url(dropped)
        await self._callbacks.send(principal, run_id, url, Cancelled("", Usage()), int(time.time() * 1000))
        return True

    def _callback_url(self, dropped: Dropped) -> str:
        """Where a run that was dropped is told of. Empty: where its store says, if anywhere."""
        try:
            return self._codec.decode_record(dropped.record).callback_url
        except CheckpointBroken:
            return ""

    async def respond(self, principal: Principal, run_id: str, token: str, answer: Answer) -> Responded:
        """Gives a run the answer it waits for. Returns also when the same answer was taken before.

        Args:
            principal: Who answers: the run's user, or whoever of the tenant is an `approver`.
            run_id: The run.
            token: From the event that asks.
            answer: The answer, without the approval, which is the token's.

        Raises:
            RunNotFound: the caller has no such run.
            ApprovalInvalid: the token is another's, was used for another answer, or has expired.
            RunNotWaiting: the run waits for no answer any more.
        """
        approval = hashlib.sha256(token.encode()).hexdigest()
        kept = self._codec.encode_answer(replace(answer, tool_call_id="", approval=approval))
        verdict = "approved" if answer.approved else "answered" if answer.result_json else "denied"
        approver = "approver" in principal.roles
        await self._takeover.hold(principal, session_of(run_id))  # should this process die before it has gone on
        responded = await self._log.respond(principal, run_id, approval, verdict, kept, any_user=approver)
        self._takeover.go_on(responded.owner, session_of(run_id))
        return responded
