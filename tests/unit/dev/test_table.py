"""The table of a stack's parts: what it shows, and that it draws only what has changed."""

import asyncio
import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from services.dev import table as under_test
from services.dev.part import tail
from services.dev.processes import Load, Meter
from services.dev.state import Folder, PartState, State
from services.dev.table import LastLines, LiveTable, Row, readable, table

ADDRESS = "127.0.0.1:7104"


class Terminal(io.StringIO):
    """A terminal that counts how often something is drawn on it."""

    drawn = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.drawn += 1
        return super().write(text)

    def taken(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.make()
    return made


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(under_test, "REFRESH_S", 0.01)
    return Terminal()


def console(file: io.StringIO, width: int = 120) -> Console:
    return Console(file=file, width=width, height=40, force_terminal=isinstance(file, Terminal), color_system=None)


async def shown_on(terminal: Terminal, text: str) -> str:
    """What is drawn, once `text` is in it."""
    end = time.monotonic() + 10
    while text not in terminal.getvalue():
        assert time.monotonic() < end, terminal.getvalue()
        await asyncio.sleep(0.01)
    return terminal.taken()


def test_a_row_is_one_line_however_long_the_log_and_narrow_the_terminal() -> None:
    load = Load(210 * 1024 * 1024, 0.254)
    rows = [Row("memory", "ready", ADDRESS, 4711, load, 0, "x" * 500), Row("nlu", "waiting", ADDRESS, 0, None, 2, "")]
    for width in (80, 120):
        written = io.StringIO()
        console(written, width).print(table(rows))
        _, memory, nlu = written.getvalue().splitlines()
        assert memory.split()[:9] == ["●", "memory", "ready", ADDRESS, "4711", "210", "MiB", "25", "%"]
        assert memory.rstrip().endswith("…")
        assert len(memory) <= width
        assert nlu.split() == ["○", "nlu", "waiting", "↻2", ADDRESS]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"address": "a:1", "event": "listening", "level": "info", "timestamp": "t"}', "listening address=a:1"),
        ('{"event": "gone", "level": "error"}', "error: gone"),
        ('{"no": "event"}', '{"no": "event"}'),
        ('{"event": 3}', '{"event": 3}'),
        ("[1]", "[1]"),
        ("{broken", "{broken"),
        ("\x1b]0;title\x07 plain\ttext \r", "]0;title plain text"),
    ],
)
def test_a_line_of_a_log_is_shown_for_a_person(line: str, expected: str) -> None:
    assert readable(line) == expected


def test_the_last_line_of_a_log_is_read_again_only_when_it_has_changed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(log: Path) -> list[str]:
        read.append(log)
        return tail(log)

    monkeypatch.setattr(under_test, "tail", counted)
    lines = LastLines(folder.log)
    assert lines.of("memory") == ""
    folder.log("memory").write_text("one\ntwo\n\n")
    assert [lines.of("memory"), lines.of("memory")] == ["two", "two"]
    assert len(read) == 1
    folder.log("memory").write_text("one\ntwo\nthree\n")
    assert lines.of("memory") == "three"


async def test_nothing_is_drawn_while_nothing_changes(folder: Folder, terminal: Terminal) -> None:
    states = {"memory": PartState(ADDRESS)}
    async with LiveTable(console(terminal), folder) as live:
        live.watch(states)
        await shown_on(terminal, "○ memory  waiting")
        before = terminal.drawn
        await asyncio.sleep(0.1)
        assert terminal.drawn == before
        states["memory"].state = State.READY
        await shown_on(terminal, "● memory  ready")


async def test_the_end_of_its_log_is_shown_below_for_as_long_as_a_part_is_hurt(
    folder: Folder, terminal: Terminal
) -> None:
    state = PartState(ADDRESS, State.RESTARTING, message="died: killed by SIGKILL")
    async with LiveTable(console(terminal), folder) as live:
        live.watch({"memory": state})
        live.part("memory", state, ["last words"])
        shown = await shown_on(terminal, "last words")
        assert shown.index("● memory") < shown.index("memory died: killed by SIGKILL") < shown.index("last words")
        state.state, state.message = State.READY, ""
        live.part("memory", state, [])
        assert "last words" not in await shown_on(terminal, "ready")


async def test_a_part_that_fails_shows_its_log_without_being_asked(folder: Folder, terminal: Terminal) -> None:
    folder.log("nlu").write_text("no such setting\n")
    state = PartState(ADDRESS, State.FAILED, message="ended while starting")
    async with LiveTable(console(terminal), folder) as live:
        live.watch({"nlu": state})
        live.part("nlu", state, [])
        await shown_on(terminal, "  no such setting")
    assert "no such setting" not in terminal.taken()  # in the end it is for whoever says why the start failed


async def test_what_is_printed_meanwhile_stands_above(folder: Folder, terminal: Terminal) -> None:
    shown = console(terminal)
    async with LiveTable(shown, folder) as live:
        live.watch({"memory": PartState(ADDRESS)})
        await shown_on(terminal, "waiting")
        shown.print("Myriad is up")
        printed = terminal.taken()
        assert printed.index("Myriad is up") < printed.index("○ memory")


def test_a_session_is_measured_with_all_its_processes_since_the_look_before() -> None:
    meter, me = Meter(), os.getsid(0)
    first = meter.look({me})[me]
    assert first.cores is None
    assert first.resident > 1024 * 1024
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    cores = meter.look({me})[me].cores
    assert cores is not None
    assert cores > 0.05
    assert meter.look({2**22 + 1}) == {}
