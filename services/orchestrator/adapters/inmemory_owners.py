"""Who owns which sessions, in this process: for tests and for trying things out."""

import time
from collections.abc import Sequence

from services.kit.call import Principal


class InMemoryOwners:
    """`ports.Owners` of one process among those that share a dictionary."""

    def __init__(self, shared: dict[str, set[tuple[Principal, str]]], gone: set[str], name: str) -> None:
        """A process by this name; `gone` are those that no longer live."""
        self._shared = shared
        self._me = name
        self._gone = gone
        shared[name] = set()

    def now(self) -> float:
        """This process's time."""
        return time.time()

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

    async def take(self, gone: str) -> Sequence[tuple[Principal, str]]:
        """Makes all sessions of a process that is gone this process's own."""
        if gone not in self._gone:
            return []
        taken, self._shared[gone] = self._shared[gone], set()
        self._shared[self._me] |= taken
        return sorted(taken, key=lambda each: each[1])

    async def mine(self) -> Sequence[tuple[Principal, str]]:
        """Sessions that are this process's own."""
        return sorted(self._shared[self._me], key=lambda each: each[1])
