"""What is put into a queue of runs: where to look, and nothing of what is there."""

import hashlib
from dataclasses import dataclass

import orjson

from services.kit.queue import Item
from services.kit.run_ids import write_run_id

_NAME_DIGITS = 16

DEFAULT_QUEUE = "SIMPLE"
"""Where a run is put that has no class."""


@dataclass(frozen=True, slots=True)
class RunHint:
    """A run that a worker should look at: it may be due, at work elsewhere, or over by then.

    Args:
        tenant: Of which tenant.
        user: Of which user.
        session_id: In which session.
        run: Its number there.
    """

    tenant: str
    user: str
    session_id: str
    run: int

    def item(self, priority: int = 5, due_ms: int = 0, weight: float = 1.0, traceparent: str = "") -> Item:
        """The item to put: a run has one in a queue, however often it is put, and one for each time it is due later."""
        name = self._name(str(due_ms) if due_ms else "")
        return Item(name, self.tenant, self._body(), priority, due_ms, weight, traceparent)

    def reminder(
        self, waits_for: str, after_ms: int, priority: int = 5, weight: float = 1.0, traceparent: str = ""
    ) -> Item:
        """The item to put so that the run is looked after in a while: one for each thing that it waits for."""
        name = self.reminder_id(waits_for)
        return Item(name, self.tenant, self._body(), priority, 0, weight, traceparent, after_ms)

    def reminder_id(self, waits_for: str) -> str:
        """The id of that item."""
        return self._name(hashlib.sha256(waits_for.encode()).hexdigest()[:_NAME_DIGITS])

    def _name(self, when: str) -> str:
        return f"{self.tenant}/{write_run_id(self.session_id, self.run)}" + (f"@{when}" if when else "")

    def _body(self) -> bytes:
        return orjson.dumps([self.tenant, self.user, self.session_id, self.run])

    @classmethod
    def read(cls, body: bytes) -> "RunHint":
        """The hint that an item carries.

        Raises:
            ValueError: it carries none.
        """
        match orjson.loads(body):
            case [str(tenant), str(user), str(session_id), int(run)] if tenant and user and session_id and run > 0:
                return cls(tenant, user, session_id, run)
        raise ValueError("the item hints at no run")
