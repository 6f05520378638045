"""One stack in one work folder, from the lock on the folder to the last process gone. Also what the tests start."""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from services.dev import processes
from services.dev.agents import Target
from services.dev.environment import HOST, base_environment
from services.dev.login import DEVELOPER
from services.dev.part import keep_one_older, tail
from services.dev.plan import Options, choose_addresses, plan
from services.dev.ports import Ports
from services.dev.readiness import NotReady, replicas, until_ready
from services.dev.state import Folder, PartState, StackState, State
from services.dev.supervisor import PartFailed, Supervisor
from services.dev.users import operator_url
from services.kit.call import Principal

REMAINS_S = 10.0
"""How long the processes of a stack that was killed get to leave in good order."""

SEEN_S = 60.0
"""How long Envoy may take to find the replicas that are there. It looks every half second."""


class AlreadyRunning(Exception):
    """A stack runs, starts or stops in this folder."""


class Stack:
    """A stack."""

    def __init__(self, folder: Folder, state: StackState, supervisor: Supervisor) -> None:
        """Starts nothing."""
        self.folder = folder
        self.state = state
        self.supervisor = supervisor

    def address(self, name: str) -> str:
        """host:port of a service or an engine, whichever part it is in.

        Raises:
            KeyError: there is none of that name.
        """
        return self.state.addresses[name]

    def store_url(self) -> str:
        """URL of the store for who minds it, and may do everything."""
        return operator_url(self.address("valkey"), self.folder.store)

    def target(self, principal: Principal = DEVELOPER) -> Target:
        """Where `agents.apply` puts an agent."""
        return target_of(self.state, self.folder, principal)

    def set_state(self, state: State) -> None:
        """Says how far the whole stack is."""
        self.state.state = state
        self.folder.write(self.state)


def target_of(state: StackState, folder: Folder, principal: Principal) -> Target:
    """Where `agents.apply` puts an agent of a stack of which `state` is known."""
    return Target(state.addresses, folder, principal, state.auth, state.tls)


Report = Callable[[str, PartState, list[str]], None]


def silent(_name: str, _state: PartState, _lines: list[str]) -> None:
    """Reports nothing."""


@asynccontextmanager
async def running_stack(
    work: Path,
    options: Options,
    *,
    report: Report = silent,
    on_made: Callable[[Stack], Awaitable[None]] | None = None,
    prepare: Callable[[Stack], Awaitable[None]] | None = None,
) -> AsyncIterator[Stack]:
    """Runs a stack as long as the block runs; afterwards no process of it is left.

    Args:
        work: Its work folder, made if it is not there. The data in it are kept.
        options: What kind of stack.
        report: Told of each change of a part.
        on_made: Given the stack before its first process starts.
        prepare: Given the stack when its parts are ready; the stack is ready when this is done.

    Raises:
        AlreadyRunning: a stack runs in this folder.
        PartFailed: a part did not start, or Envoy does not find one; the others are stopped again.
        NoFreePort: there is no port for a part.
        FileNotFoundError: the environments lack something.
        ValueError: a service cannot have these replicas.
    """
    folder = Folder(work)
    with folder.owned() as free:
        if not free:
            raise AlreadyRunning(f"a stack runs in {folder.path}")
        await end_remains(folder)
        folder.make()
        with Ports(HOST) as ports:
            stack = await _make(folder, ports, options, report)
            if on_made is not None:
                await on_made(stack)
            try:
                await stack.supervisor.start()
                await _until_edge_sees_all(stack)
                if prepare is not None:
                    await prepare(stack)
                stack.set_state(State.READY)
                yield stack
            finally:
                await _to_its_end(_stop(stack))


async def _until_edge_sees_all(stack: Stack) -> None:
    """Envoy starts beside the services, and has its own eyes: what answers us may not have its calls yet."""
    try:
        await until_ready(replicas(stack.address("envoy_admin")), SEEN_S)
    except NotReady as error:
        raise PartFailed("envoy", str(error), tail(stack.folder.log("envoy"))) from None


async def _stop(stack: Stack) -> None:
    stack.set_state(State.STOPPING)
    await stack.supervisor.stop()
    await _end(stack.state)
    stack.folder.forget()


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Does `work`, all of it, even if this task is cancelled meanwhile; a cancellation counts afterwards."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def _make(folder: Folder, ports: Ports, options: Options, report: Report) -> Stack:
    addresses = choose_addresses(ports, options)
    parts = await asyncio.to_thread(plan, folder, addresses, options)
    me = processes.me()
    state = StackState(uuid.uuid4().hex, me.pid, me.started, options.vertical)
    state.addresses, state.auth, state.tls = addresses, options.auth, options.tls
    journal = folder.log("stack")
    for log in (journal, *(folder.log(part.name) for part in parts)):
        keep_one_older(log)

    def changed(name: str, part: PartState, lines: list[str]) -> None:
        folder.write(state)
        with journal.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {name} {part.state} {part.message}".rstrip() + "\n")
            file.writelines(f"    {line}\n" for line in lines)
        report(name, part, lines)

    environ = base_environment(os.environ, (processes.MARK, state.mark))
    supervisor = Supervisor(parts, folder.log, environ, changed)
    state.parts = supervisor.states
    stack = Stack(folder, state, supervisor)
    stack.set_state(State.STARTING)
    return stack


async def end_remains(folder: Folder) -> list[int]:
    """Ends what a stack left behind whose supervisor was killed. Call it only as the folder's owner.

    Returns:
        Pids of the processes that had to be ended.
    """
    state = folder.read()
    ended = await _end(state) if state else []
    folder.forget()
    return ended


async def _end(state: StackState) -> list[int]:
    """Asks every process of a stack to leave, and kills those that do not."""
    first = state.processes()
    _signal(first, signal.SIGTERM)
    end = time.monotonic() + REMAINS_S
    while left := state.processes():
        if time.monotonic() > end:
            _signal(left, signal.SIGKILL)
        await asyncio.sleep(0.05)
    return [process.pid for process in first]


def _signal(found: list[processes.Process], number: signal.Signals) -> None:
    for process in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)
