"""The command `myriad` as a person types it: with a work folder of its own, and on a terminal."""

import codecs
import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.dev.state import ROOT, Folder, StackState

MYRIAD = Path(sys.executable).parent / "myriad"
UP_S = 180.0


@dataclass
class CommandLine:
    """`myriad` with a work folder of its own."""

    work: Path

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments)
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=UP_S,
            check=False,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )

    def command(self, *arguments: str) -> list[str]:
        return [str(MYRIAD), "--work", str(self.work), *arguments]

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self("status", "--json").stdout))

    def state(self) -> StackState:
        state = Folder(self.work).read()
        assert state is not None
        return state


@dataclass
class Typed:
    """A stack that was started by a command, and what that printed."""

    myriad: CommandLine
    printed: str


def pasted(line: str) -> subprocess.CompletedProcess[str]:
    """Runs what was printed to be tried, as it is, in the repository's root."""
    command = ["bash", "-c", line]
    return subprocess.run(command, capture_output=True, text=True, timeout=UP_S, check=False, cwd=ROOT)


class Terminal:
    """A process on a terminal, and the terminal's other side."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process = process
        self.reads: list[float] = []
        """When something came, since `read_until` began."""
        self._side = side
        self._open = True
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def type(self, text: str) -> None:
        os.write(self._side, text.encode())

    def read_until(self, wanted: str) -> str:
        """What is shown up to `wanted` and with it, colours left out. What comes after is for the next call."""
        end = time.monotonic() + UP_S
        self.reads.clear()
        while wanted not in self._rest:
            readable, _, _ = select.select([self._side], [], [], max(0.0, end - time.monotonic()))
            assert readable, self._rest
            self._rest = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._rest + self._decoder.decode(self._read()))
            self.reads.append(time.monotonic())
        shown, found, self._rest = self._rest.partition(wanted)
        return shown + found

    def ended(self, seconds: float) -> int:
        """Its exit status. What it still shows is read: a terminal that nobody reads holds up who writes."""
        end = time.monotonic() + seconds
        shown = b""
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise AssertionError(f"still runs after {seconds} s, showing {shown!r}\n{self._doing()}")
            with contextlib.suppress(OSError):
                if self._open and select.select([self._side], [], [], 0.1)[0]:
                    shown += os.read(self._side, 4096)
                    continue
            time.sleep(0.01)
        return self.process.returncode

    def _doing(self) -> str:
        command = [str(MYRIAD.with_name("py-spy")), "dump", "--pid", str(self.process.pid)]
        seen = subprocess.run(command, capture_output=True, text=True, check=False)
        return seen.stdout + seen.stderr

    def _read(self) -> bytes:
        try:
            return os.read(self._side, 4096)
        except OSError:  # how the kernel says that nobody has the terminal open any more
            raise AssertionError(f"the command ended: {self._rest}") from None

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._side)


@contextmanager
def on_a_terminal(*command: str) -> Iterator[Terminal]:
    """Runs a command in the repository's root as a terminal does. Leaving the block waits for its end."""
    side, inside = pty.openpty()
    # setsid makes the terminal the one that Ctrl-C and the end of the session come from; what runs in the background of
    # a shell ignores Ctrl-C, and all that it starts does too, unless it is told not to.
    whole = ["setsid", "--wait", "--ctty", "env", "--default-signal=INT", *command]
    with subprocess.Popen(whole, stdin=inside, stdout=inside, stderr=inside, cwd=ROOT) as running:
        os.close(inside)
        terminal = Terminal(running, side)
        try:
            yield terminal
            terminal.ended(60)
        finally:
            terminal.close()  # hangs up on what still runs
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(60)
            running.kill()
