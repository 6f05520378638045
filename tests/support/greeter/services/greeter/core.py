"""What is said, and when."""

from services.greeter.ports import Clock


class Greeter:
    """Greets by the time of day."""

    def __init__(self, clock: Clock, noon: int) -> None:
        """It is morning until `noon`, an hour."""
        self._clock = clock
        self._noon = noon

    def greet(self, person: str) -> str:
        """The greeting."""
        return f"Good {'morning' if self._clock.hour() < self._noon else 'day'}, {person}."
