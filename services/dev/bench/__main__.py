"""`python -m services.dev.bench`."""

import asyncio
import tempfile
from pathlib import Path

from rich.console import Console

from services.dev.bench import report, turn

TURNS = 1500
"""Turns measured in each way of running; as many again, divided by ten, warm it up."""


async def main() -> None:
    """Measures both ways of running, one after the other."""
    console = Console()
    results = []
    for vertical in (False, True):
        with tempfile.TemporaryDirectory(prefix="myriad-bench-") as folder:
            results.append(await turn.measure(Path(folder), vertical=vertical, turns=TURNS, say=console.print))
    console.print(report.table(results))
    report.write(results)
    console.print("written to BENCHMARKS.md")


if __name__ == "__main__":
    asyncio.run(main())
