"""Tests beside each other, in as many lanes as pytest-xdist has workers, and tests that have the machine alone."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

LONGEST_FIRST = ("e2e", "contract", "integration", "security", "unit", "faults")
"""The order in which folders are begun. Faults have the machine alone, so they come when the lanes are through."""

GATE = Path(__file__)
FLOOR = Path(__file__).parent.parent
"""Both are only locked: they are there in every lane."""


class Lanes(LoadScopeScheduling):
    """Gives a lane a whole folder: its files share a stack. Unit tests share nothing, and go file by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = folder_of(file)
        return file if folder == "unit" else folder


def folder_of(file: str) -> str:
    """The kind of test that a file under tests/ holds."""
    return Path(file).parts[1]


def begun(file: str) -> int:
    """Where in LONGEST_FIRST the folder of a file is."""
    return LONGEST_FIRST.index(folder_of(file))


@contextmanager
def place(*, alone: bool) -> Iterator[None]:
    """A place on the machine for one test, with what it sets up and takes down.

    Who has to be alone waits until the others are through, and they wait at the gate meanwhile: none overtakes it.
    """
    with _opened(GATE) as gate, _opened(FLOOR) as floor:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(floor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # A child that was forked meanwhile has the file open, too.
            fcntl.flock(floor, fcntl.LOCK_UN)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    opened = os.open(path, os.O_RDONLY)
    try:
        yield opened
    finally:
        os.close(opened)
