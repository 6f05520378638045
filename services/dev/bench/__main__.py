"""`python -m services.dev.bench [SECTION ...]`: measures all sections, or those named, and writes BENCHMARKS.md."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from services.dev.bench import answers, held, log, quality, queue, report, search, turn

SECTIONS = {
    "turn": turn.section,
    "log": log.section,
    "queue": queue.section,
    "answers": answers.section,
    "search": search.section,
    "held": held.section,
    "quality": quality.section,
}


async def main(names: list[str]) -> int:
    """Measures one section after the other. Returns the exit status."""
    console = Console()
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        console.print(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
        return 2
    for name in names or _all(console):
        with tempfile.TemporaryDirectory(prefix="myriad-bench-") as folder:
            made = await SECTIONS[name](Path(folder), lambda text: console.print(text, style="dim"))
        console.print(report.table(made))
        report.keep(name, made)
        report.write(report.kept(SECTIONS))
    console.print("written to BENCHMARKS.md")
    return 0


def _all(console: Console) -> list[str]:
    """Every section that can be measured here."""
    if quality.DATA in os.environ:
        return list(SECTIONS)
    console.print(f"quality is left out: {quality.DATA} names no folder with its data")
    return [name for name in SECTIONS if name != "quality"]


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
