"""Figures for people: a table on the screen, and BENCHMARKS.md."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from services.dev.bench.turn import ENGINES, WORKERS, Result, machine
from services.dev.plan import ROOT

FILE = ROOT / "BENCHMARKS.md"
_TARGET_MS = {"five processes": 6.0, "one process": 3.5}
_TARGET_RATE = {"five processes": 90, "one process": 110}


def table(results: Sequence[Result]) -> Table:
    """The figures as the terminal shows them."""
    header, *rows = zip(*_columns(results), strict=True)
    shown = Table(title=f"straight-path turn, {WORKERS} at once")
    for index, name in enumerate(header):
        shown.add_column(name, justify="right" if index else "left")
    for row in rows:
        shown.add_row(*(cell.replace("**", "") for cell in row))
    return shown


def write(results: Sequence[Result], file: Path = FILE) -> None:
    """Writes BENCHMARKS.md."""
    columns = _columns(results)
    rows = list(zip(*columns, strict=True))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * len(results))
    file.write_text(_TEXT.format(machine=machine(), workers=WORKERS, table="\n".join(lines)))


def _columns(results: Sequence[Result]) -> list[list[str]]:
    names = ["ready after s (target 15)", "resident MiB (target 2560)", "turns", "errors", "**turns/s**", "target"]
    names += ["p50 ms", "p99 ms", "**CPU ms a turn, services and Envoy**", "target"]
    processes = [name for name in dict.fromkeys(name for result in results for name in result.cpu_ms)]
    own = [name for name in processes if name not in (*ENGINES, "generator", "crm")]
    beside = [name for name in (*ENGINES, "generator") if name != "crm"]
    alone = ["one at a time: turns/s", "one at a time: p50 ms", "one at a time: CPU ms a turn, services and Envoy"]
    direct = ["direct calls/s", "direct p50 ms", "direct CPU ms a call, Triton"]
    first = ["", *names, *(f"- {name}" for name in own), *(f"beside it: {name}" for name in beside), *alone, *direct]
    return [first, *(_column(result, own, beside) for result in results)]


def _column(result: Result, own: Sequence[str], beside: Sequence[str]) -> list[str]:
    turns, direct = result.turns, result.direct
    figures = [
        f"{result.ready_s:.1f}",
        f"{result.resident_mib:.0f}",
        str(turns.count),
        str(turns.errors),
        f"**{turns.rate:.0f}**",
        f">= {_TARGET_RATE[result.name]}",
        f"{turns.percentile_ms(0.5):.1f}",
        f"{turns.percentile_ms(0.99):.1f}",
        f"**{result.own_cpu_ms:.2f}**",
        f"<= {_TARGET_MS[result.name]}",
    ]
    by_process = [f"{result.cpu_ms[name]:.2f}" if name in result.cpu_ms else "" for name in (*own, *beside)]
    alone = [f"{result.alone.rate:.0f}", f"{result.alone.percentile_ms(0.5):.1f}", f"{result.own_alone_cpu_ms:.2f}"]
    floor = [f"{direct.rate:.0f}", f"{direct.percentile_ms(0.5):.1f}", f"{result.direct_cpu_ms['triton']:.2f}"]
    return [result.name, *figures, *by_process, *alone, *floor]


_TEXT = """# Benchmarks

Made by `make bench` on {machine}, load generator included. Machines are noisy: compare figures within one
column of one run, not across runs.

## Straight-path turn

A turn of the example agent through Envoy: session, intents by the real embedder, facts from the real Milvus,
history and log in the real Valkey, answer from `sim_llm` without delay. {workers} turns at once, each in a session of
its own. CPU is user and system time of all processes of a part. *Direct* is the same script asked of Triton without
us, in the same run.

{table}
"""
