"""A clock that stands still."""


class StoppedClock:
    """Always the same hour."""

    def __init__(self, hour: int) -> None:
        """The hour, 0 to 23."""
        self._hour = hour

    def hour(self) -> int:
        """That hour."""
        return self._hour
