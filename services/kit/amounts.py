"""Amounts of all that a run can spend."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Amounts:
    """An amount that is None says nothing: as a limit, there is none; as something spent, it is 0."""

    tokens: int | None = None
    """Tokens that models read and wrote."""

    cost_micros: int | None = None
    """Money, in millionths of the operator's currency."""

    tool_calls: int | None = None
    milliseconds: int | None = None
    """Time at work."""

    def __iter__(self) -> Iterator[int | None]:
        """In the order of the fields."""
        return iter((self.tokens, self.cost_micros, self.tool_calls, self.milliseconds))

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return (
            self.tokens is not None
            or self.cost_micros is not None
            or self.tool_calls is not None
            or self.milliseconds is not None
        )

    def less(self, spent: "Amounts") -> "Amounts":
        """What is left of each when this was spent, 0 at least; of no limit, none."""
        left = (None if each is None else max(0, each - (gone or 0)) for each, gone in zip(self, spent, strict=True))
        return Amounts(*left)

    def more(self, gained: "Amounts") -> "Amounts":
        """Each with so much more; of no limit, none."""
        pairs = zip(self, gained, strict=True)
        return Amounts(*(None if each is None else each + (more or 0) for each, more in pairs))


NO_AMOUNTS = Amounts()
"""Says nothing."""

ZERO = Amounts(0, 0, 0, 0)
"""Nothing of anything."""
