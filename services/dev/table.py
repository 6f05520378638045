"""The parts of a stack as a table: one row each, made of what is known and redrawn only when that changes."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.dev.part import tail
from services.dev.processes import Load, Meter
from services.dev.show import printable
from services.dev.state import Folder, PartState, State

REFRESH_S = 0.5
"""Shortest time between two drawings."""

MEASURE_S = 2.0
"""Time between two looks at memory and processors: finding out costs more than showing."""

HURT = frozenset({State.RESTARTING, State.FAILED})
"""A part in such a state, and until it is ready again, has the end of its log shown."""

_STYLES: Mapping[str, str] = {
    State.READY: "green",
    State.FAILED: "red",
    State.WAITING: "dim",
    State.STOPPED: "dim",
}
_MARKS: Mapping[str, str] = {State.WAITING: "○", State.STOPPED: "○"}
_MIB = 1024 * 1024
_WIDE = 200


@dataclass(frozen=True)
class Row:
    """What is shown of one part."""

    name: str
    state: str
    address: str
    pid: int
    load: Load | None
    restarts: int
    line: str
    """Its latest trouble, or the last line of its log."""

    def cells(self) -> tuple[str, ...]:
        """What comes after the name, to the precision that is shown."""
        memory = f"{self.load.resident / _MIB:.0f} MiB" if self.load else ""
        cores = self.load.cores if self.load else None
        cpu = f"{100 * cores:.0f} %" if cores is not None else ""
        state = f"{self.state} ↻{self.restarts}" if self.restarts else self.state
        return (state, self.address, str(self.pid or ""), memory, cpu, self.line)


def table(rows: Sequence[Row]) -> Table:
    """Rows as a table that fits any width: the last column is cut."""
    drawn = Table(box=None, pad_edge=False, expand=False)
    for heading in ("part", "state", "address", "pid", "memory", "cpu"):
        right = heading in {"pid", "memory", "cpu"}
        drawn.add_column(heading, justify="right" if right else "left", no_wrap=True)
    drawn.add_column("")  # the one that gives way when there is no room
    for row in rows:
        style = _STYLES.get(row.state, "yellow")
        name = Text.assemble((_MARKS.get(row.state, "●"), style), " ", row.name)
        state, *cells, line = row.cells()
        drawn.add_row(name, Text(state, style=style), *map(Text, cells), _cut(line))
    return drawn


def _cut(line: str) -> Text:
    return Text(line[:_WIDE], style="dim", no_wrap=True, overflow="ellipsis")


def wide(console: Console) -> Console:
    """The console; where it is no terminal, wide enough that a program reads whole rows."""
    if not console.is_terminal:
        console.width = _WIDE
    return console


def end_of_log(name: str, message: str, lines: Sequence[str]) -> Text:
    """What stands below the table for a part that is hurt."""
    # Each line cut to one line of the terminal: the drawing has a height that rich knows.
    told = [f"\n{name} {message}", *(f"  {readable(line)}" for line in lines)]
    return Text("\n".join(told), style="dim", no_wrap=True, overflow="ellipsis")


class LastLines:
    """The last line of each log, read again only when the file has changed."""

    def __init__(self, log_of: Callable[[str], Path]) -> None:
        """Reads the logs that `log_of` names."""
        self._log_of = log_of
        self._known: dict[str, tuple[tuple[int, int], str]] = {}

    def of(self, part: str) -> str:
        """A part's, for a person: of a line in JSON its event and its level, where that says more than information."""
        log = self._log_of(part)
        try:
            looked = log.stat()
        except OSError:
            return ""
        stamp = (looked.st_size, looked.st_mtime_ns)
        if self._known.get(part, ((), ""))[0] != stamp:
            lines = [line for line in tail(log) if line.strip()]
            self._known[part] = (stamp, readable(lines[-1]) if lines else "")
        return self._known[part][1]


def readable(line: str) -> str:
    """A line of a log without what a terminal would obey, and without the braces of JSON."""
    with contextlib.suppress(ValueError):
        known = json.loads(line)
        if isinstance(known, dict) and isinstance(known.get("event"), str):
            line = _told(known)
    return printable(line).replace("\t", " ").replace("\n", " ").strip()


def _told(known: Mapping[str, Any]) -> str:
    level = known.get("level", "info")
    facts = (f"{name}={value}" for name, value in known.items() if name not in {"event", "level", "timestamp"})
    return " ".join([*([] if level == "info" else [f"{level}:"]), known["event"], *facts])


class LiveTable:
    """Shows the parts of a stack for as long as the block runs; what is printed meanwhile stands above.

    A tail of its log stands below for each part that failed or died, until it is ready again.
    """

    def __init__(self, console: Console, folder: Folder) -> None:
        """Draws on `console`, which is a terminal."""
        self._folder = folder
        self._console = console
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._states: Mapping[str, PartState] = {}
        self._tails: dict[str, list[str]] = {}
        self._lines = LastLines(folder.log)
        self._meter = Meter()
        self._loads: dict[int, Load] = {}
        self._shown: object = None
        self._drawing: asyncio.Task[None] | None = None

    def watch(self, states: Mapping[str, PartState]) -> None:
        """Shows these from now on."""
        self._states = states

    def part(self, name: str, part: PartState, lines: list[str]) -> None:
        """Takes a change: the log's tail of a part that died or failed."""
        if part.state in HURT:
            self._tails[name] = lines or tail(self._folder.log(name))
        elif part.state is State.READY:
            self._tails.pop(name, None)

    async def __aenter__(self) -> Self:
        """Begins to draw."""
        self._live.start()
        self._drawing = asyncio.create_task(self._draw())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last drawing, without tails, on the terminal."""
        assert self._drawing is not None
        self._drawing.cancel()
        await asyncio.gather(self._drawing, return_exceptions=True)
        self._tails.clear()
        self._show()
        self._live.stop()

    async def _draw(self) -> None:
        loop = asyncio.get_running_loop()
        measured = float("-inf")
        while True:
            if loop.time() - measured >= MEASURE_S:
                measured = loop.time()
                pids = {part.pid for part in self._states.values() if part.pid}
                self._loads = await asyncio.to_thread(self._meter.look, pids)
            self._show()
            await asyncio.sleep(REFRESH_S)

    def _show(self) -> None:
        rows = [self._row(name, part) for name, part in self._states.items()]
        tails = {name: tuple(lines) for name, lines in self._tails.items()}
        shown = ([(row.name, row.cells()) for row in rows], tails, self._console.size)
        if shown == self._shown:
            return
        self._shown = shown
        below = [end_of_log(name, self._states[name].message, lines) for name, lines in tails.items()]
        self._live.update(Group(table(rows), *below), refresh=True)

    def _row(self, name: str, part: PartState) -> Row:
        line = part.message or self._lines.of(name)
        return Row(name, part.state, part.address, part.pid, self._loads.get(part.pid), part.restarts, line)
