"""`myriad status`: how every part is, asked now."""

import asyncio
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from services.dev.part import tail
from services.dev.plan import probe_of
from services.dev.processes import Load, Meter, Usage, usage
from services.dev.readiness import NotReady, check
from services.dev.show import typed
from services.dev.state import Folder, PartState, StackState, State
from services.dev.table import HURT, MEASURE_S, LastLines, Row, end_of_log, table, wide

UNREADY = "unready"
"""State of a part that runs and does not answer."""

GLANCE_S = 0.5
"""How long processors are watched for one look."""

_MIB = 1024 * 1024


async def status(folder: Folder) -> dict[str, Any]:
    """The stack as a JSON object.

    Its `state` and by name each part's `state`, `pid`, `address`, `rss_mib`, `cpu_s`, `restarts`, `message`. The state
    of the stack is `stopped` when none runs here, and `unready` when a part of a running one is not ready.
    """
    known = folder.read()
    if known is None or not folder.is_owned():
        return {"state": State.STOPPED.value, "parts": {}, "addresses": {}}
    usages = usage({part.pid for part in known.parts.values() if part.pid})
    asked = (_part(folder, name, part, known) for name, part in known.parts.items())
    by_name = dict(zip(known.parts, await asyncio.gather(*asked), strict=True))
    for part in by_name.values():
        used = usages.get(part["pid"], Usage())
        part["rss_mib"], part["cpu_s"] = round(used.resident / _MIB, 1), round(used.cpu_s, 2)
    ready = all(part["state"] == State.READY for part in by_name.values())
    return {
        "state": known.state.value if ready or known.state is not State.READY else UNREADY,
        "vertical": known.vertical,
        "auth": known.auth,
        "tls": known.tls,
        "pid": known.pid,
        "rss_mib": round(sum(part["rss_mib"] for part in by_name.values()), 1),
        "parts": by_name,
        "addresses": known.addresses,
    }


async def _part(folder: Folder, name: str, part: PartState, stack: StackState) -> dict[str, Any]:
    state, message = part.state.value, part.message
    if part.state is State.READY:
        try:
            await check(probe_of(name, stack.addresses, folder.keys if stack.tls else None))
        except NotReady as error:
            state, message = UNREADY, str(error)
    return {
        "state": state,
        "address": part.address,
        "pid": part.pid,
        "restarts": part.restarts,
        "ready_after_s": part.ready_after_s,
        "message": message,
    }


async def show(console: Console, folder: Folder) -> dict[str, Any]:
    """Prints it once for a person. Returns what `status` knew."""
    meter = Meter()
    began = asyncio.get_running_loop().time()
    meter.look(_pids(folder))
    known = await status(folder)
    if known["state"] != State.STOPPED:
        await asyncio.sleep(max(0.0, began + GLANCE_S - asyncio.get_running_loop().time()))
    wide(console).print(drawn(folder, known, meter, LastLines(folder.log)))
    return known


async def watch(console: Console, folder: Folder) -> None:
    """Shows it until cancelled, asked anew every two seconds."""
    meter, lines = Meter(), LastLines(folder.log)
    shown = None
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            known = await status(folder)
            picture = drawn(folder, known, meter, lines)
            if (known, console.size) != shown:
                shown = (known, console.size)
                live.update(picture, refresh=True)
            await asyncio.sleep(MEASURE_S)


def _pids(folder: Folder) -> set[int]:
    known = folder.read()
    return {part.pid for part in known.parts.values() if part.pid} if known else set()


def drawn(folder: Folder, known: dict[str, Any], meter: Meter, lines: LastLines) -> Group | Text:
    """What `status` knew as a table, below it the end of the log of each part that died or failed and is not back."""
    if known["state"] == State.STOPPED:
        return Text(f"Myriad does not run. Start it: {typed(folder.path, 'up')}")
    loads = meter.look({part["pid"] for part in known["parts"].values()} - {0})
    rows = [_row(name, part, loads.get(part["pid"]), lines) for name, part in known["parts"].items()]
    hurt = {name: part for name, part in known["parts"].items() if _is_hurt(part)}
    below = [end_of_log(name, part["message"], tail(folder.log(name))) for name, part in hurt.items()]
    return Group(table(rows), Text(f"{known['state']}, {known['rss_mib']:.0f} MiB resident in all"), *below)


def _is_hurt(part: dict[str, Any]) -> bool:
    begins_again = part["restarts"] > 0 and part["state"] in {State.WAITING, State.STARTING}
    return part["state"] in HURT or begins_again


def _row(name: str, part: dict[str, Any], load: Load | None, lines: LastLines) -> Row:
    line = part["message"] or lines.of(name)
    return Row(name, part["state"], part["address"], part["pid"], load, part["restarts"], line)
