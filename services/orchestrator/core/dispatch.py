"""Sees to it that runs that wait get their turn: here, or with the workers of their class."""

from collections.abc import Callable, Mapping, Sequence

import structlog

from services.kit.call import Principal
from services.kit.errors import CheckpointBroken, ServiceError
from services.kit.hints import DEFAULT_QUEUE, RunHint
from services.kit.queue import Item, Queue
from services.kit.run_ids import read_run_id, session_of
from services.orchestrator.core.job import Job
from services.orchestrator.core.patience import patiently
from services.orchestrator.domain.run import Dropped, Next, Record
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import RunLog

log = structlog.get_logger(__name__)

_LATER_S = 0.5
"""Whoever looks after a run that waits comes so much after it has waited for long enough."""


class Dispatch:
    """Puts runs before whoever is to work on them."""

    def __init__(
        self,
        queue: Queue,
        run_log: RunLog,
        codec: Codec,
        go_on: Callable[[Principal, str], None],
        weights: Mapping[str, float],
    ) -> None:
        """Puts hints into `queue`, with the weights of their tenants; `go_on` goes on in a session in this process."""
        self._weights = weights
        self._queue = queue
        self._log = run_log
        self._codec = codec
        self._go_on = go_on

    async def enqueue(
        self, principal: Principal, run_id: str, record: Record, due_ms: int = 0, *, must: bool = True
    ) -> None:
        """Puts a run before the workers of its class.

        Raises:
            QueueFull: the tenant has too many there, and the run need not be put.
        """
        hint = RunHint(principal.tenant, principal.user, *read_run_id(run_id))
        await self._queue.put(record.queue or DEFAULT_QUEUE, [self._item(hint, record, due_ms)], must=must)

    async def next_in_line(self, principal: Principal, due: Next) -> None:
        """Sees to it that a run whose turn has come begins: here, or with the workers of its class."""
        try:
            record = self._codec.decode_record(due.record)
            if record.queue:
                return await self.enqueue(principal, due.run_id, record)
        except ServiceError as error:  # a record that is damaged, too: who takes the run ends it
            log.warning("run not put before the workers", run_id=due.run_id, reason=error.reason)
        self._go_on(principal, session_of(due.run_id))

    async def take_back(self, principal: Principal, run_id: str, request_id: str) -> bool:
        """Undoes that a run was accepted which no queue has. False: it cannot be now, and the run stays accepted."""
        try:
            undone = await self._log.undo(principal, run_id, request_id)
        except ServiceError as error:
            log.warning("run not taken back", run_id=run_id, reason=error.reason)
            return False
        if undone and undone.next:
            await self.next_in_line(principal, undone.next)
        return undone is not None

    async def left_line(self, principal: Principal, run_id: str, dropped: Dropped) -> None:
        """Sees to what follows when a run has ended in the line: the next begins, its queue has room for another."""
        if dropped.next:
            await self.next_in_line(principal, dropped.next)
        try:
            record = self._codec.decode_record(dropped.record)
            if record.queue:
                hint = RunHint(principal.tenant, principal.user, *read_run_id(run_id))
                for item in (self._item(hint, record, dropped.due_ms), self._item(hint, record, 0)):
                    await self._queue.remove(record.queue, item.id)
        except ServiceError as error:  # whoever claims it finds that it is over
            log.warning("run not taken out of the queue", run_id=run_id, reason=error.reason)

    async def put_later(self, principal: Principal, session_id: str) -> None:
        """Puts the runs of a session that are due later: whoever accepted one may have died before it did."""
        hints: dict[str, list[Item]] = {}
        for waits, due_ms in await self._log.later(principal, session_id):
            try:
                record = self._codec.decode_record(waits.record)
            except CheckpointBroken:  # who takes the run ends it
                continue
            if record.queue:
                hint = RunHint(principal.tenant, principal.user, *read_run_id(waits.run_id))
                hints.setdefault(record.queue, []).append(self._item(hint, record, due_ms))
        for queue, items in hints.items():
            await self._queue.put(queue, items, must=True)

    async def remind(self, job: Job, after_s: float, waits_for: str) -> None:
        """Has a worker look after a run in so many seconds: to try it again, or because nobody has answered.

        By the clock of the queue: this process's own may be hours wrong, and who looks too early looks in vain. Waits
        for a store that is away for a moment.
        """
        hint = RunHint(job.run.principal.tenant, job.run.principal.user, *read_run_id(job.run.turn.run_id))
        record, after_ms = job.record, int((after_s + _LATER_S) * 1000)
        item = hint.reminder(waits_for, after_ms, record.priority, self._weight(hint), record.traceparent)
        await patiently(lambda: self._queue.put(record.queue or DEFAULT_QUEUE, [item], must=True))

    async def forget_reminder(self, principal: Principal, run_id: str, record: Record, waited_for: str) -> None:
        """Takes out what `remind` put for a run that has what it waited for."""
        hint = RunHint(principal.tenant, principal.user, *read_run_id(run_id))
        try:
            await self._queue.remove(record.queue or DEFAULT_QUEUE, hint.reminder_id(waited_for))
        except ServiceError as error:  # whoever claims it finds that there is nothing to do
            log.warning("reminder not taken out", run_id=run_id, reason=error.reason)

    def _item(self, hint: RunHint, record: Record, due_ms: int = 0) -> Item:
        return hint.item(record.priority, due_ms, self._weight(hint), record.traceparent)

    def _weight(self, hint: RunHint) -> float:
        return self._weights.get(hint.tenant, 1.0)


def read_weights(settings: Sequence[str]) -> Mapping[str, float]:
    """Weights of tenants.

    Args:
        settings: Each `tenant=weight`.

    Raises:
        ValueError: one of them is something else, a weight is not above 0 and at most 100, or a tenant has two.
    """
    weights: dict[str, float] = {}
    for setting in settings:
        tenant, _, weight = setting.rpartition("=")
        try:
            weights[tenant] = float(weight) if tenant and tenant not in weights else 0.0
        except ValueError:
            weights[tenant] = 0.0
        if not 0 < weights[tenant] <= 100:
            raise ValueError(f"tenant_weights: {setting}: must be <tenant>=<0 to 100>, once for each tenant")
    return weights
