"""Figures for people: tables on the screen, and BENCHMARKS.md."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from services.dev.bench.flame import FOLDER
from services.dev.bench.section import Section
from services.dev.state import ROOT

FILE = ROOT / "BENCHMARKS.md"
HISTORY = Path(__file__).with_name("history.md")
"""What was slow and is no longer: written by hand, and put below the figures."""

_HEAD = """# Benchmarks

Made by `make bench` on {machine}, load generator included. Machines are noisy: compare figures within one
column of one run, not across runs. CPU is user and system time of all processes of a part.
`make bench ARGS="turn held"` measures single sections anew.
"""


def table(section: Section) -> Table:
    """A section as the terminal shows it."""
    shown = Table(title=section.title)
    header, *rows = section.rows
    for index, name in enumerate(header):
        shown.add_column(name, justify="right" if index else "left")
    for row in rows:
        shown.add_row(*(cell.replace("**", "") for cell in row))
    return shown


def keep(name: str, section: Section, folder: Path = FOLDER) -> None:
    """Keeps what a section came to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(asdict(section)))


def kept(names: Iterable[str], folder: Path = FOLDER) -> list[Section]:
    """What these sections came to when they were measured last; without those that never were."""
    files = [folder / f"{name}.json" for name in names]
    return [Section(**json.loads(file.read_text())) for file in files if file.exists()]


def write(sections: Sequence[Section], file: Path = FILE) -> None:
    """Writes BENCHMARKS.md."""
    texts = [_HEAD.format(machine=_machine()), *(_section(section) for section in sections), HISTORY.read_text()]
    file.write_text("\n".join(texts))


def _section(section: Section) -> str:
    lines = [f"| {' | '.join(row)} |" for row in section.rows]
    lines.insert(1, "|---|" + "---:|" * (len(section.rows[0]) - 1))
    return "\n".join([f"## {section.title}", "", section.about.strip(), "", *lines, ""])


def _machine() -> str:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "unknown processor")
    return f"{os.cpu_count()} x {model}"
