"""Where processes spend their time, as flame graphs (py-spy)."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from services.dev.plan import ROOT, VERTICAL
from services.kit.topology import PROCESSES

FOLDER = ROOT / ".myriad" / "bench"
_SPY = str(Path(sys.executable).parent / "py-spy")
_RATE = "200"
_BEGUN_S = 15.0
_OURS = (*PROCESSES, VERTICAL)


@asynccontextmanager
async def recorded(pids: Mapping[str, int], folder: Path) -> AsyncIterator[None]:
    """Watches our services while the block runs, and writes `<process>.svg` for each.

    Where the system does not allow one process to look at another, no picture comes of it, and nothing else changes.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    spies = [
        await asyncio.create_subprocess_exec(
            *(_SPY, "record", "--pid", str(pid), "--rate", _RATE, "--output", str(folder / f"{name}.svg")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        for name, pid in pids.items()
        if name in _OURS
    ]
    for spy in spies:
        await _begun(spy)
    try:
        yield
    finally:
        for spy in spies:
            if spy.returncode is None:
                spy.send_signal(2)  # it writes what it saw
        for spy in spies:
            await spy.wait()


async def _begun(spy: asyncio.subprocess.Process) -> None:
    """Returns once it says that it watches, or has ended: told to stop before that, it writes nothing."""
    assert spy.stdout is not None
    with suppress(TimeoutError):
        await asyncio.wait_for(spy.stdout.readline(), _BEGUN_S)
