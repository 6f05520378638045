"""This machine's clock."""

import time
from datetime import UTC, datetime


class SystemClock:
    """Tells this machine's time."""

    def now(self) -> datetime:
        """The time of day in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()
