"""What a server asks of its disk, seen by strace: what it wrote to its log, what was synced, and when it replied."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

LOG = "incr.aof"
_CALL = re.compile(r"^(\d+) +(\w+)\((\d+)<([^>]*)>")
_SIZE = re.compile(r", (\d+)(?:\)| <unfinished)")
_UNFINISHED = "<unfinished ...>"
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>")
_RESULT = re.compile(r"= (-?\d+)(?: |$)")


class NoStrace(Exception):
    """This machine has none."""


@dataclass
class Seen:
    """What was seen, in order."""

    synced: int = 0
    """Bytes of the log that the disk has for certain."""
    written: int = 0
    under_way: int = 0
    """Bytes of the write in whose course the server was killed: some or all of them are in the log."""

    early: int = 0
    """Replies that left while the log had bytes that were not synced."""
    replies: int = 0
    _syncing: dict[str, int] = field(default_factory=dict)
    _calls: dict[str, tuple[str, str]] = field(default_factory=dict)

    def take(self, line: str) -> None:
        """One line of strace's output."""
        if begun := _CALL.match(line):
            thread, call, _, target = begun.groups()
            self._begin(thread, call, target, line)
            if _UNFINISHED in line:
                self._calls[thread] = (call, target)
            else:
                self._end(thread, call, target, line)
        elif resumed := _RESUMED.match(line):
            thread = resumed.group(1)
            call, target = self._calls.pop(thread, ("", ""))
            self._end(thread, call, target, line)

    def _begin(self, thread: str, call: str, target: str, line: str) -> None:
        if call == "write" and target.endswith(LOG) and (size := _SIZE.search(line)):
            self.under_way = int(size.group(1))
        if call == "fdatasync" and target.endswith(LOG):
            self._syncing[thread] = self.written
        if call != "fdatasync" and target.startswith("TCP"):
            self.replies += 1
            self.early += self.synced < self.written

    def _end(self, thread: str, call: str, target: str, line: str) -> None:
        found = _RESULT.search(line)
        result = int(found.group(1)) if found else -1
        if call == "write" and target.endswith(LOG) and found:
            self.under_way = 0
            self.written += max(result, 0)
        if call == "fdatasync" and result == 0 and thread in self._syncing:
            self.synced = max(self.synced, self._syncing.pop(thread))


@asynccontextmanager
async def watched(pid: int, work: Path, *, inject: Sequence[str] = ()) -> AsyncIterator[Path]:
    """Watches a process and its threads from now on. Yields the file of what was seen.

    Args:
        pid: The process.
        work: Where the file goes.
        inject: Faults, as strace's `-e inject=` has them.

    Raises:
        NoStrace: there is none, or it may not look.
    """
    program = shutil.which("strace")
    if program is None:
        raise NoStrace("strace is not installed (Debian: apt-get install strace)")
    output = work / "strace"
    faults = [argument for fault in inject for argument in ("-e", f"inject={fault}")]
    calls = "trace=write,writev,sendto,fdatasync"
    argv = (program, "-f", "-yy", "-s", "0", "-e", calls, *faults, "-o", str(output), "-p", str(pid))
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(10):
            said = (await process.stderr.readline()).decode()
        if "attached" not in said:
            raise NoStrace(f"strace may not look: {said}")
        yield output
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def read(output: Path) -> Seen:
    """What was seen, from the beginning."""
    seen = Seen()
    for line in output.read_text(errors="replace").splitlines():
        seen.take(line)
    return seen


def cut_power(log: Path, before: int, seen: Seen) -> None:
    """Leaves of a log what a disk that lost its power has: all that was synced, and nothing else.

    `before` is how long it was when the watching began.
    """
    os.truncate(log, before + seen.synced)
