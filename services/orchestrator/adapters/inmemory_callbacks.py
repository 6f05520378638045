"""Callbacks of runs in this process."""

from services.kit.call import Principal
from services.orchestrator.domain.run import CallbackOutcome


class InMemoryCallbackStore:
    """`ports.CallbackStore` in dictionaries. Whoever sends writes into `outcomes`."""

    def __init__(self) -> None:
        """Expects nothing."""
        self.outcomes: dict[tuple[str, str], CallbackOutcome] = {}
        self._urls: dict[tuple[str, str], str] = {}

    async def expect(self, principal: Principal, run_id: str, url: str) -> None:
        """Keeps an address."""
        key = (principal.tenant, run_id)
        if key not in self._urls:
            self._urls[key], self.outcomes[key] = url, CallbackOutcome("pending")

    async def pending(self, principal: Principal, run_id: str) -> str:
        """The address that was not told yet."""
        key = (principal.tenant, run_id)
        return self._urls[key] if key in self._urls and self.outcomes[key].state == "pending" else ""

    async def outcome(self, principal: Principal, run_id: str) -> CallbackOutcome | None:
        """What became of it."""
        return self.outcomes.get((principal.tenant, run_id))
