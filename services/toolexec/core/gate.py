"""Refuses work beyond a limit at once, so that a slow tool does not hold up the others."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.kit.errors import ResourceExhausted

ToolKey = tuple[str, str, str]
"""Tenant, agent, tool."""

_RETRY_AFTER_S = 1.0


class Gate:
    """Counts what runs, per tool and in all."""

    def __init__(self, per_tool: int, in_all: int) -> None:
        """Lets that many calls in at once."""
        self._per_tool = per_tool
        self._in_all = in_all
        self._running: Counter[ToolKey] = Counter()
        self._total = 0

    @contextmanager
    def enter(self, key: ToolKey) -> Iterator[None]:
        """Holds a place while the block runs.

        Raises:
            ResourceExhausted: there is no place.
        """
        if self._running[key] >= self._per_tool or self._total >= self._in_all:
            raise ResourceExhausted("too many calls of tools are running", retry_after=_RETRY_AFTER_S)
        self._running[key] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
