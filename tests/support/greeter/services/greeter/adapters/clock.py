"""The clock of this machine."""

from datetime import UTC, datetime


class SystemClock:
    """The time of day, UTC."""

    def hour(self) -> int:
        """0 to 23."""
        return datetime.now(UTC).hour
