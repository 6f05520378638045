"""What a part of the benchmarks comes to: a heading, what was done, and a table."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One part of BENCHMARKS.md."""

    title: str
    about: str
    """What was done, and what it is to be held against."""

    rows: Sequence[Sequence[str]]
    """The first is the header; the first cell of each says what the row is."""


def number(value: float) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
