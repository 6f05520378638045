"""`myriad up --detach` and `myriad down`: starts a stack as a process of its own, and stops one.

What runs a stack is imported by that process, and not by the command that waits for it.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from services.dev import processes
from services.dev.plan import Options
from services.dev.show import typed
from services.dev.state import Folder, State

DOWN_S = 90.0
"""How long `down` waits."""

_POLL_S = 0.05


def up_detached(console: Console, folder: Folder, options: Options) -> int:
    """Starts the stack as a process of its own and returns when it is ready. Returns the exit status."""
    folder.make()
    if folder.is_owned():
        return say_running(console, folder)
    arguments = ["--work", str(folder.path), "up", *options.arguments()]
    output = folder.log("up")
    with output.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "services.dev", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with output.open(errors="replace") as shown:
            while child.poll() is None and not _is_up(folder, child.pid):
                console.out(shown.read(), end="", highlight=False)
                time.sleep(_POLL_S)
            console.out(shown.read(), end="", highlight=False)
    except KeyboardInterrupt:
        child.terminate()
        child.wait(DOWN_S)
        return 130
    return child.returncode or 0


def _is_up(folder: Folder, pid: int) -> bool:
    state = folder.read()
    return state is not None and state.pid == pid and state.state is State.READY


def down(console: Console, work: Path) -> int:
    """Stops the stack, or ends what a killed one left behind. Returns the exit status."""
    folder = Folder(work)
    with folder.owned() as free:
        if free:
            from services.dev.stack import end_remains  # here, as it brings all that runs a stack

            ended = asyncio.run(end_remains(folder))
            said = (
                f"Ended what a killed stack left behind: {len(ended)} processes." if ended else "Myriad does not run."
            )
            console.print(said, highlight=False)
            return 0
    state = folder.read()
    if state is not None and processes.is_running(state.pid, state.started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGTERM)
    end = time.monotonic() + DOWN_S
    while folder.is_owned():
        if time.monotonic() > end:
            console.print(f"The stack still runs after {DOWN_S:.0f} s; see {folder.log('stack')}", style="red")
            return 1
        time.sleep(_POLL_S)
    console.print("Myriad is down.", highlight=False)
    return 0


def say_running(console: Console, folder: Folder) -> int:
    """Says that a stack runs already, and what to do with it. Returns the exit status."""
    state = folder.read()
    where = state.addresses["envoy"] if state else "its address is not known yet"
    see, stop = typed(folder.path, "status"), typed(folder.path, "down")
    said = f"Myriad already runs: {where}\nSee it: {see}\nStop it: {stop}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    return 0
