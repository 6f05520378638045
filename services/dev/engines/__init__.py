"""How each engine is started: one file per engine, each a pure function from addresses and folders to a `Launch`."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """One process to start. Data only: the supervisor decides when, and watches it."""

    argv: tuple[str, ...]
    """Program and arguments; the program is an absolute path."""

    env: Mapping[str, str]
    """Variables added to the supervisor's own environment. A name given here replaces the inherited one."""

    stop_signal: signal.Signals = signal.SIGTERM
    """What asks the process to leave in good order."""

    stop_grace_s: float = 5.0
    """Seconds between `stop_signal` and SIGKILL."""

    leaves: str = ""
    """Glob of the files that it leaves when it is killed: they are removed when it has ended."""
