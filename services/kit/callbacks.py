"""What is put into the queue of callbacks: that a run has ended, and which address is told."""

from dataclasses import dataclass

import orjson

from services.kit.call import Principal
from services.kit.queue import Item

_STATES = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Callback:
    """Tells somebody that a run has ended.

    Args:
        run_id: The run.
        url: Whom.
        state: How it ended: `completed`, `failed` or `cancelled`.
        end_ms: When it ended, milliseconds since 1970.
    """

    run_id: str
    url: str
    state: str
    end_ms: int

    def item(self, principal: Principal, traceparent: str = "") -> Item:
        """The item to put, for a run of this user: a run has one, however often it is put."""
        whose = {"tenant": principal.tenant, "user": principal.user}
        what = {"run_id": self.run_id, "url": self.url, "state": self.state, "end_ms": self.end_ms}
        name, body = f"{principal.tenant}/{self.run_id}", orjson.dumps(whose | what)
        return Item(name, principal.tenant, body, traceparent=traceparent)


def read_callback(body: bytes) -> tuple[Principal, Callback]:
    """What is in an item, and on whose behalf.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    found = orjson.loads(body)
    callback = Callback(found["run_id"], found["url"], found["state"], int(found["end_ms"]))
    if callback.state not in _STATES:
        raise ValueError("a run ends in another way")
    return Principal(found["tenant"], found["user"]), callback
