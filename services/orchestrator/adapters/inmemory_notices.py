"""Word of what changes in runs, among all that share one object."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.kit.call import Principal


class InMemoryNotices:
    """`ports.Notices` of all processes at once. Whoever changes a run calls `tell` and `tell_stop`."""

    def __init__(self) -> None:
        """Nobody listens yet."""
        self._changed: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self._stopped: list[Callable[[str, str], None]] = []

    def start(self, stopped: Callable[[str, str], None]) -> None:
        """Begins to hear."""
        self._stopped.append(stopped)

    async def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def changes(self, principal: Principal, run_id: str, changed: Callable[[], None]) -> Iterator[None]:
        """Calls `changed` when there is word of a run."""
        key = (principal.tenant, run_id)
        self._changed.setdefault(key, []).append(changed)
        changed()
        try:
            yield
        finally:
            self._changed[key].remove(changed)
            if not self._changed[key]:
                del self._changed[key]

    def tell(self, principal: Principal, run_id: str) -> None:
        """Says that a run changed."""
        for changed in self._changed.get((principal.tenant, run_id), ()):
            changed()

    def tell_stop(self, principal: Principal, run_id: str) -> None:
        """Says that a run was told to stop."""
        for stopped in self._stopped:
            stopped(principal.tenant, run_id)
