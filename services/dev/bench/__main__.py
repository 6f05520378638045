"""`python -m services.dev.bench [SECTION ...]`: measures all sections, or those named, and writes BENCHMARKS.md."""

import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from services.dev.bench import answers, held, log, queue, report, search, turn

SECTIONS = {
    "turn": turn.section,
    "log": log.section,
    "queue": queue.section,
    "answers": answers.section,
    "search": search.section,
    "held": held.section,
}


async def main(names: list[str]) -> int:
    """Measures one section after the other. Returns the exit status."""
    console = Console()
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        console.print(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
        return 2
    for name in names or SECTIONS:
        with tempfile.TemporaryDirectory(prefix="myriad-bench-") as folder:
            made = await SECTIONS[name](Path(folder), lambda text: console.print(text, style="dim"))
        console.print(report.table(made))
        report.keep(name, made)
        report.write(report.kept(SECTIONS))
    console.print("written to BENCHMARKS.md")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
