"""Where processes spend their time, as flame graphs (py-spy)."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from services.dev.plan import VERTICAL
from services.dev.state import ROOT
from services.kit.topology import PROCESSES

FOLDER = ROOT / ".myriad" / "bench"
_SPY = str(Path(sys.executable).parent / "py-spy")
_RATE = "200"
_BEGUN_S = 15.0
_OURS = (*PROCESSES, VERTICAL)


@asynccontextmanager
async def recorded(pids: Mapping[str, int], folder: Path) -> AsyncIterator[list[str]]:
    """Watches our services while the block runs, and writes `<process>.svg` for each.

    Yields what is known after the block: the processes of which no picture came, as where the system does not allow one
    process to look at another, or py-spy is not installed. Nothing else changes by that.
    """
    pictures = {name: folder / f"{name}.svg" for name in pids if name in _OURS}
    await asyncio.to_thread(_cleared, folder, pictures.values())
    spies = []
    with suppress(FileNotFoundError):
        for name, picture in pictures.items():
            spies.append(await _spy(pids[name], picture))
    for spy in spies:
        await _begun(spy)
    unseen: list[str] = []
    try:
        yield unseen
    finally:
        for spy in spies:
            if spy.returncode is None:
                spy.send_signal(2)  # it writes what it saw
        for spy in spies:
            await spy.wait()
        unseen += [name for name, picture in pictures.items() if not await asyncio.to_thread(picture.exists)]


def _cleared(folder: Path, pictures: Iterable[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        picture.unlink(missing_ok=True)


async def _spy(pid: int, picture: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(_SPY, "record", "--pid", str(pid), "--rate", _RATE, "--output", str(picture)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def _begun(spy: asyncio.subprocess.Process) -> None:
    """Returns once it says that it watches, or has ended: told to stop before that, it writes nothing."""
    assert spy.stdout is not None
    with suppress(TimeoutError):
        await asyncio.wait_for(spy.stdout.readline(), _BEGUN_S)
