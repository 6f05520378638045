"""`myriad status`: how every part is, asked now."""

import asyncio
from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.dev.plan import probe_of
from services.dev.readiness import NotReady, check
from services.dev.state import Folder, PartState, StackState, State

UNREADY = "unready"
"""State of a part that runs and does not answer."""

_MIB = 1024 * 1024


async def status(folder: Folder) -> dict[str, Any]:
    """The stack as a JSON object: `state`, and by name each part's `state`, `pid`, `address`, `rss_mib`, `restarts`.

    The state of the stack is `stopped` when none runs here, and `unready` when a part of a running one is not ready.
    """
    known = folder.read()
    if known is None or not folder.is_owned():
        return {"state": State.STOPPED.value, "parts": {}, "addresses": {}}
    resident: dict[int, int] = defaultdict(int)
    for process in known.processes():
        resident[process.session] += process.resident
    parts = await asyncio.gather(*(_part(name, part, known, resident) for name, part in known.parts.items()))
    by_name = dict(zip(known.parts, parts, strict=True))
    ready = all(part["state"] == State.READY for part in parts)
    state = known.state.value if ready or known.state is not State.READY else UNREADY
    total = round(sum(part["rss_mib"] for part in parts), 1)
    return {
        "state": state,
        "vertical": known.vertical,
        "pid": known.pid,
        "rss_mib": total,
        "parts": by_name,
        "addresses": known.addresses,
    }


async def _part(name: str, part: PartState, stack: StackState, resident: dict[int, int]) -> dict[str, Any]:
    state, message = part.state.value, part.message
    if part.state is State.READY:
        try:
            await check(probe_of(name, stack.addresses))
        except NotReady as error:
            state, message = UNREADY, str(error)
    return {
        "state": state,
        "address": part.address,
        "pid": part.pid,
        "rss_mib": round(resident[part.pid] / _MIB, 1),
        "restarts": part.restarts,
        "ready_after_s": part.ready_after_s,
        "message": message,
    }


def show(console: Console, known: dict[str, Any]) -> None:
    """Prints it for a person."""
    if known["state"] == State.STOPPED:
        console.print("Myriad does not run. Start it: make up", highlight=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "state", "address", "pid", "memory", "restarts", ""):
        table.add_column(heading, justify="right" if heading in {"pid", "memory", "restarts"} else "left")
    for name, part in known["parts"].items():
        style = "green" if part["state"] == State.READY else "yellow"
        memory, restarts = f"{part['rss_mib']:.0f} MiB", str(part["restarts"] or "")
        cells = (part["address"], str(part["pid"] or ""), memory, restarts, part["message"])
        table.add_row(name, Text(part["state"], style=style), *(Text(cell) for cell in cells))
    console.print(table)
    console.print(f"{known['state']}, {known['rss_mib']:.0f} MiB resident in all", highlight=False)
