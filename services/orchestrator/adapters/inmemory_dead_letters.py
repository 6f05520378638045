"""Dead letters in this process."""

import time
from collections.abc import Sequence

from services.kit.call import Principal
from services.kit.errors import DeadLetterNotFound
from services.orchestrator.domain.run import DeadLetter


class InMemoryDeadLetters:
    """`ports.DeadLetters`, in the fewest words."""

    def __init__(self, kept: int = 10_000, kept_s: float = 14 * 86_400.0) -> None:
        """As `RedisDeadLetters`."""
        self._kept = kept
        self._kept_s = kept_s
        self._letters: dict[str, dict[str, DeadLetter]] = {}

    async def put(self, principal: Principal, letter: DeadLetter) -> None:
        """Keeps a letter."""
        letters = self._of(principal)
        letters.setdefault(letter.run_id, letter)
        for run_id in [each.run_id for each in _newest_first(letters)][self._kept :]:
            del letters[run_id]

    async def get(self, principal: Principal, run_id: str) -> DeadLetter:
        """The letter of a run."""
        found = self._of(principal).get(run_id)
        if found is None:
            raise DeadLetterNotFound("no such dead letter")
        return found

    async def page(self, principal: Principal, after: tuple[int, str] | None, limit: int) -> Sequence[DeadLetter]:
        """Letters, the newest first."""
        letters = _newest_first(self._of(principal))
        return [each for each in letters if after is None or (each.time_ms, each.run_id) < after][:limit]

    async def remove(self, principal: Principal, run_id: str) -> None:
        """Forgets a letter."""
        self._of(principal).pop(run_id, None)

    def _of(self, principal: Principal) -> dict[str, DeadLetter]:
        letters = self._letters.setdefault(principal.tenant, {})
        since = (time.time() - self._kept_s) * 1000
        for run_id in [each.run_id for each in letters.values() if each.time_ms <= since]:
            del letters[run_id]
        return letters


def _newest_first(letters: dict[str, DeadLetter]) -> list[DeadLetter]:
    return sorted(letters.values(), key=lambda each: (each.time_ms, each.run_id), reverse=True)
