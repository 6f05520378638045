"""What the commands of `myriad` share: their usual options, the stack they speak to, and how they fail."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from myriad.orchestrator.v1 import run_event_pb2
from services.dev.show import WORK, typed
from services.dev.state import Folder, StackState, State
from services.dev.transcript import reason_of
from services.kit.errors import AgentNotFound, SessionNotFound, Unauthenticated


class Failed(Exception):
    """The command cannot be done. The message says what happened, where, and what to do."""


Tenant = Annotated[str | None, typer.Option(help="On behalf of which tenant. By default who is logged in, or dev.")]
User = Annotated[str | None, typer.Option(help="On behalf of which user. By default who is logged in, or dev.")]
Agent = Annotated[str | None, typer.Option(help="The agent. By default that of the session, or aura.")]
Session = Annotated[str | None, typer.Option(help="Go on with this session. By default a new one begins.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def running(folder: Folder) -> StackState:
    """What is known of the running stack.

    Raises:
        Failed: none runs.
    """
    state = folder.read()
    if state is None or not folder.is_owned():
        usual = "" if folder.path == WORK else " (make up starts the usual one)"
        start = typed(folder.path, "up")
        raise Failed(f"The stack is not running (its folder would be {folder.path}). Start it{usual}: {start}")
    if state.state is not State.READY:
        raise Failed(f"The stack is {state.state}, not ready yet. See it: {typed(folder.path, 'status')}")
    return state


@contextmanager
def advising(folder: Folder, tenant: str | None, user: str | None, *, takes_session: bool = True) -> Iterator[None]:
    """Says what to do about an agent or a session that is not there, and about a token that is not taken.

    Args:
        folder: Of the stack.
        tenant: On whose behalf the command was asked to call.
        user: The same of the user.
        takes_session: Whether the command has the option `--session`.

    Raises:
        Failed: one of these.
    """
    try:
        yield
    except AgentNotFound as error:
        listing = typed(folder.path, "agents", "list", *on_behalf(tenant, user))
        raise Failed(f"{error.message} ({error.reason}). See which there are: {listing}") from error
    except SessionNotFound as error:
        if not takes_session:
            raise
        raise Failed(f"{error.message} ({error.reason}). Leave out --session: a new one begins.") from error
    except Unauthenticated as error:
        command = typed(folder.path, "login", *on_behalf(tenant, user))
        raise Failed(f"{error.message} ({error.reason}). Run: {command}") from error


def on_behalf(tenant: str | None, user: str | None) -> list[str]:
    """The options that name who asks, where the command named them."""
    given = {"--tenant": tenant, "--user": user}
    return [word for option, name in given.items() if name is not None for word in (option, name)]


def answering(
    folder: Folder, tenant: str | None, user: str | None
) -> Callable[[str, run_event_pb2.RunApprovalRequired], str]:
    """The command that answers what a run asks, by the run's id."""

    def command(run_id: str, asked: run_event_pb2.RunApprovalRequired) -> str:
        how = ["--result", "{}"] if reason_of(asked) == "CLIENT_TOOL" else ["--approve"]
        return typed(folder.path, "respond", run_id, *on_behalf(tenant, user), f"--token={asked.approval_token}", *how)

    return command
