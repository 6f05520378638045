"""The commands of `myriad` that talk to agents, and see to their runs."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from services.dev import ask as asking
from services.dev import conversation
from services.dev.chat import chat as talk
from services.dev.command import Agent, AsJson, Failed, Session, Tenant, User, advising, answering, on_behalf, running
from services.dev.edge import Edge, edge_of, orchestrator_at
from services.dev.show import print_json, typed
from services.dev.state import Folder
from services.dev.transcript import to_dict

_CTRL_C = 130

RunId = Annotated[str, typer.Argument(help="The run: SESSION.NUMBER.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (_chat, _ask, _respond, _runs, _cancel):
        app.command(command.__name__.removeprefix("_"))(command)


def _chat(
    context: typer.Context,
    agent: Agent = None,
    session: Session = None,
    tenant: Tenant = None,
    user: User = None,
) -> None:
    """Talk to an agent."""
    folder: Folder = context.obj
    edge = edge_of(folder, running(folder), tenant, user)
    whom = agent or (None if session else "aura")
    again = typed(folder.path, "chat", *on_behalf(tenant, user), "--session")
    with advising(folder, tenant, user):
        later = answering(folder, tenant, user)
        talk(Console(), edge, agent=whom, session_id=session, again=again, later=later)


def _ask(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What to ask.")],
    agent: Agent = None,
    session: Session = None,
    as_json: AsJson = False,
    tenant: Tenant = None,
    user: User = None,
) -> None:
    """Ask an agent one thing. Exit status 0: the run completed; 3: it waits for somebody's answer."""
    folder: Folder = context.obj
    edge = edge_of(folder, running(folder), tenant, user)
    whom = agent or (None if session else "aura")
    later = answering(folder, tenant, user)
    doing = asking.ask(Console(), edge, text, agent=whom, session_id=session, as_json=as_json, later=later)
    with advising(folder, tenant, user):
        _exit_with(doing)


def _respond(
    context: typer.Context,
    run_id: RunId,
    token: Annotated[str, typer.Option(help="The token of what the run asked.")],
    approve: Annotated[bool, typer.Option("--approve", help="The tool may run.")] = False,
    deny: Annotated[str | None, typer.Option(help="It may not; the text says why, and may be empty.")] = None,
    result: Annotated[str | None, typer.Option(help="You ran it: its result as JSON.")] = None,
    as_json: AsJson = False,
    tenant: Tenant = None,
    user: User = None,
) -> None:
    """Answer a run that waits, and see how it goes on. Exit status as that of ask."""
    response = _response(approve, deny, result)
    folder: Folder = context.obj
    edge = edge_of(folder, running(folder), tenant, user)
    later = answering(folder, tenant, user)
    doing = asking.respond(Console(), edge, run_id, token, response, as_json=as_json, later=later)
    with advising(folder, tenant, user):
        _exit_with(doing)


def _exit_with(doing: Coroutine[None, None, int]) -> NoReturn:
    """Ends the command with the exit status that comes of it."""
    try:
        code = asyncio.run(doing)
    except KeyboardInterrupt:
        code = _CTRL_C
    raise typer.Exit(code)


def _response(approve: bool, deny: str | None, result: str | None) -> conversation.Response:
    if approve + (deny is not None) + (result is not None) != 1:
        raise Failed("Say one of --approve, --deny WHY and --result JSON.")
    if approve:
        return run_pb2.Approve()
    if deny is not None:
        return run_pb2.Deny(reason=deny)
    try:
        json.loads(result or "")
    except (ValueError, RecursionError):
        raise Failed("--result is no JSON. A text is: '\"like this\"'") from None
    return run_pb2.ClientToolResult(result_json=result or "")


def _runs(
    context: typer.Context,
    session: Annotated[str, typer.Argument(help="The session.")],
    as_json: AsJson = False,
    tenant: Tenant = None,
    user: User = None,
) -> None:
    """List the latest 100 runs of a session, the newest first."""
    folder: Folder = context.obj
    with advising(folder, tenant, user, takes_session=False):
        found = asyncio.run(_list(edge_of(folder, running(folder), tenant, user), session))
    if as_json:
        print_json(Console(), found)
        return
    for run in found["runs"]:
        state = run["state"].removeprefix("RUN_STATE_").lower()
        why = (run.get("error") or {}).get("message", "")
        line = f"{run['run_id']:<34} {state:<10} {run.get('create_time', ''):<28} {why}"
        Console().print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)


async def _list(edge: Edge, session: str) -> dict[str, Any]:
    async with orchestrator_at(edge) as client:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        request = run_pb2.ListRunsRequest(session_id=session, page_size=100)
        reply = await client.unary(stub.ListRuns, request, timeout=conversation.TIMEOUT_S)
        return to_dict(reply)


def _cancel(context: typer.Context, run_id: RunId, tenant: Tenant = None, user: User = None) -> None:
    """Stop a run. One that has ended stays as it is."""
    folder: Folder = context.obj
    with advising(folder, tenant, user):
        asyncio.run(_stop(edge_of(folder, running(folder), tenant, user), run_id))


async def _stop(edge: Edge, run_id: str) -> None:
    async with orchestrator_at(edge) as client:
        await conversation.cancel(client, run_id)
