"""`myriad up`: starts the stack and keeps it until told to stop."""

import asyncio
import contextlib
import shlex
import signal
import time
from collections.abc import Awaitable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from services.dev import agentfile, agents
from services.dev.detached import say_running
from services.dev.engines.valkey import ValkeyMissing
from services.dev.plan import Options
from services.dev.ports import NoFreePort
from services.dev.show import typed
from services.dev.stack import AlreadyRunning, Stack, running_stack
from services.dev.state import ROOT, Folder, PartState, StackState, State
from services.dev.supervisor import PartFailed
from services.dev.table import LiveTable
from services.kit.errors import ServiceError

EXAMPLE = ROOT / "examples" / "aura"
"""The agent that is there from the start."""

IMPATIENT_S = 1.0
"""A second Ctrl-C after this time means: do not wait."""

_SHELL = frozenset("\"'\\`$&|;<>()*?")


class Printer:
    """Prints a line for each part that becomes ready, dies or fails: what a log or a pipe gets."""

    def __init__(self, console: Console, folder: Folder) -> None:
        """Prints to `console`; names logs in `folder`."""
        self._console = console
        self._folder = folder
        self._last: dict[str, State] = {}

    def part(self, name: str, part: PartState, lines: list[str]) -> None:
        """Prints a change. What is no news for a person is not printed."""
        before, self._last[name] = self._last.get(name), part.state
        if part.state is State.READY and before is not State.READY:
            again = f" again ({part.restarts})" if part.restarts else ""
            self._line(f"[green]●[/green] {name:<16}{part.address:<17} ready{again} after {part.ready_after_s:.1f} s")
        elif part.state is State.RESTARTING:
            self._line(f"[yellow]●[/yellow] {name:<16}{escape(part.message)}")
            self.log(name, lines)
        elif part.state is State.STOPPED:
            self._line(f"[dim]○ {name:<16}stopped[/dim]")

    def failed(self, error: PartFailed) -> None:
        """Prints why the start failed."""
        self._line(f"[red]● {error.name:<13}{escape(error.reason)}[/red]")
        self.log(error.name, error.lines)

    def log(self, name: str, lines: list[str]) -> None:
        """Prints the last lines of a part's log."""
        for line in lines:
            self._console.print(f"    {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
        self._line(f"  the whole log: {escape(str(self._folder.log(name)))}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


async def up(console: Console, folder: Folder, options: Options) -> int:
    """Runs the stack until SIGINT, SIGTERM or SIGHUP; a later SIGINT ends it at once. Returns the exit status."""
    made: list[Stack] = []
    task = asyncio.create_task(_up(console, folder, options, made))
    told_at = 0.0

    def tell(number: signal.Signals) -> None:
        nonlocal told_at
        if not told_at:
            told_at = time.monotonic()
            task.cancel()
        # make passes on what the terminal has sent to both: the same wish, told twice.
        elif number is signal.SIGINT and time.monotonic() - told_at > IMPATIENT_S:
            for stack in made:
                stack.supervisor.kill_all()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, tell, number)
    try:
        return await task
    except asyncio.CancelledError:
        return 0


async def _up(console: Console, folder: Folder, options: Options, made: list[Stack]) -> int:
    if not _is_plain(folder.path):
        console.print(
            f"Cannot start in {folder.path}\nTriton hands its paths to a shell: name a work folder (--work) "
            "whose path has no spaces, quotes or other signs of the shell.",
            style="red",
            markup=False,
            soft_wrap=True,
        )
        return 1
    try:
        await _run(console, folder, options, made)
    except PartFailed as error:
        Printer(console, folder).failed(error)
    except AlreadyRunning:
        return say_running(console, folder)
    except ValueError as error:
        console.print(f"Cannot start: {error}", style="red", markup=False)
    except (NoFreePort, FileNotFoundError, ValkeyMissing) as error:
        console.print(f"Cannot start: {error}\nmake up installs what is missing.", style="red", markup=False)
    return 1


async def _run(console: Console, folder: Folder, options: Options, made: list[Stack]) -> None:
    """Runs the stack until cancelled; on a terminal below a table of its parts, else with a line for each change."""
    began = time.monotonic()

    async def prepare(stack: Stack) -> None:
        applied = await apply_example(console, stack, learning[0])
        _say_up(console, folder, time.monotonic() - began, what_to_try(folder.path, stack.state) if applied else [])

    learning: list[asyncio.Task[list[str]]] = []
    async with contextlib.AsyncExitStack() as showing:
        live = LiveTable(console, folder) if console.is_terminal and not console.is_dumb_terminal else None

        async def begin(stack: Stack) -> None:
            made.append(stack)
            learning.append(asyncio.create_task(_learn_example(stack)))
            showing.push_async_callback(_cancelled, learning[0])
            if live is not None:
                live.watch(stack.supervisor.states)
                await showing.enter_async_context(live)

        async with running_stack(
            folder.path,
            options,
            report=live.part if live is not None else Printer(console, folder).part,
            on_made=begin,
            prepare=prepare,
        ):
            await asyncio.Event().wait()


def _say_up(console: Console, folder: Folder, seconds: float, to_try: list[str]) -> None:
    lines = ["", f"Myriad is up after {seconds:.1f} s.", *to_try]
    stop = ("Ctrl-C, or " if console.is_terminal else "") + typed(folder.path, "down")
    # At once: a table below is drawn anew for each print.
    console.print(Text.assemble("\n".join(lines), ("\n\nStop it: " + stop + "\n", "dim")), soft_wrap=True)


def _is_plain(path: Path) -> bool:
    """Whether a shell takes the path for one word: Triton starts its models' processes without quoting theirs."""
    return not any(letter.isspace() or letter in _SHELL for letter in str(path))


async def _learn_example(stack: Stack) -> list[str]:
    """Begins while the parts start: the trainer takes seconds to import what it learns with."""
    return await agents.learn(await asyncio.to_thread(agentfile.read, EXAMPLE), stack.target())


async def _cancelled(task: asyncio.Task[list[str]]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def apply_example(console: Console, stack: Stack, learning: Awaitable[list[str]]) -> bool:
    """Puts the example agent into the stack, unless it is there as it is. Returns whether it is there."""
    try:
        source = agentfile.read(EXAMPLE)
        target = stack.target()
        if not await agents.is_applied(source, target):
            await agents.apply(source, target, lambda line: _detail(console, line), learning=learning)
    except (agentfile.AgentFileError, ServiceError, agents.TrainingFailed) as error:
        console.print(f"The example agent is not there: {error}", style="red", markup=False)
        return False
    return True


def _detail(console: Console, line: str) -> None:
    console.print(f"  {line}", style="dim", markup=False, highlight=False, soft_wrap=True)


def what_to_try(work: Path, state: StackState) -> list[str]:
    """Lines that tell three things to try, to be pasted as they are."""
    curl, json_type = "curl", "-H 'content-type: application/json'"
    address = state.addresses["envoy"]
    if state.auth:
        json_type += ' -H "authorization: Bearer $TOKEN"'
    if state.tls:
        curl, address = shlex.join(["curl", "--cacert", str(Folder(work).keys / "ca.pem")]), f"https://{address}"
    return [
        "",
        *(["Log in:", "  " + typed(work, "login")] if state.auth else []),
        "Ask a question:",
        "  " + typed(work, "ask", "How many days do I have to return something?", "--agent", "aura"),
        "The same over HTTP, as server-sent events:",
        *([f"  TOKEN=$({typed(work, 'login', '--print')})"] if state.auth else []),
        f'  SESSION=$({curl} -s {address}/v1/sessions {json_type} -d \'{{"agent": "aura"}}\''
        ' | grep -o \'"session_id": *"[^"]*\' | cut -d\'"\' -f4)',
        f'  {curl} -sN {address}/v1/sessions/${{SESSION}}:run {json_type} -d \'{{"input": "Where is order 1001?"}}\'',
        "Talk:",
        "  " + typed(work, "chat"),
    ]
