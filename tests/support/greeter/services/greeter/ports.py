"""What the decision needs from outside."""

from typing import Protocol


class Clock(Protocol):
    """The time of day."""

    def hour(self) -> int:
        """0 to 23, UTC."""
