"""The command line `myriad`."""

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, cast

import typer
from rich.console import Console

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, sessions_pb2
from services.dev import login, talking
from services.dev.command import AsJson, Failed, Tenant, User, advising, running
from services.dev.conversation import TIMEOUT_S
from services.dev.edge import Edge, edge_of, orchestrator_at
from services.dev.environment import without_proxy
from services.dev.show import WORK, LastingOutput, print_json
from services.dev.state import Folder, State
from services.dev.transcript import to_dict
from services.kit.call import Principal
from services.kit.errors import ServiceError

FOLLOW_EVERY_S = 0.2

_WHO = ("tenant", "user", "role", "ttl")
"""What of a login says who, and not what to do with it."""


Work = Annotated[Path, typer.Option(help="Work folder of the stack: its state, logs and data.")]


def make_app() -> typer.Typer:
    """The commands. Each takes its folder from the context."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_options)
    for command in (_up, _down, _status, _logs, _login):
        app.command(command.__name__.removeprefix("_"))(command)
    talking.add_to(app)
    on_agents = typer.Typer(no_args_is_help=True, help="What the stack's agents are.")
    on_agents.command("apply")(_agents_apply)
    on_agents.command("list")(_agents_list)
    app.add_typer(on_agents, name="agents")
    return app


def main() -> None:
    """The entry point: runs the command, and says what went wrong in a sentence."""
    # Everything the command line talks to is on this machine.
    os.environ.update(without_proxy(os.environ))
    try:
        make_app()()
    except Failed as error:
        _complain(str(error))
    except ServiceError as error:
        _complain(f"{error.message} ({error.reason})")
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output left
        sys.exit(1)


def _complain(text: str) -> NoReturn:
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _options(context: typer.Context, work: Work = WORK) -> None:
    """Myriad on this machine: the stack, and talking to its agents."""
    context.obj = Folder(work)


def _up(
    context: typer.Context,
    vertical: Annotated[bool, typer.Option("--vertical", help="All services in one process.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is ready; the stack goes on.")] = False,
    with_sim: Annotated[bool, typer.Option("--with-sim", help="Also serve the model that plays a script.")] = False,
    auth: Annotated[
        bool, typer.Option("--auth", help="Believe nobody without a token; `myriad login` gives one.")
    ] = False,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS at the edge and between services.")] = False,
    replicas: Annotated[list[str] | None, typer.Option(help="SERVICE=N: run a service in N processes.")] = None,
    cors: Annotated[list[str] | None, typer.Option(help="Let pages of this origin call from a browser.")] = None,
) -> None:
    """Start the stack: engines, services, Envoy; and the example agent."""
    # Here, as in other commands what they alone need: the quick ones would wait for it.
    from services.dev import detached
    from services.dev.plan import Options

    many = _replicas(replicas or [])
    options = Options(vertical, with_sim, auth, tls, many, tuple(cors or ()))
    if detach:
        raise typer.Exit(detached.up_detached(Console(), context.obj, options))
    from services.dev import up

    console = Console(file=cast("TextIO", LastingOutput(sys.stdout)))
    raise typer.Exit(asyncio.run(up.up(console, context.obj, options)))


def _replicas(given: list[str]) -> dict[str, int]:
    """Number by service, of `SERVICE=N`; one option may hold several, with commas."""
    found = {}
    for each in ",".join(given).split(",") if given else []:
        service, _, number = each.partition("=")
        if not number.isdecimal():
            raise Failed(f"--replicas {each}: must be SERVICE=N, for example orchestrator=2")
        found[service.strip()] = int(number)
    return found


def _down(context: typer.Context) -> None:
    """Stop the stack."""
    from services.dev import detached

    raise typer.Exit(detached.down(Console(), context.obj.path))


def _status(
    context: typer.Context,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it until Ctrl-C.")] = False,
) -> None:
    """Show every part: state, address, process, memory. Exit status 0: all are ready."""
    from services.dev import status

    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(status.watch(Console(), context.obj))
        return
    if as_json:
        known = asyncio.run(status.status(context.obj))
        print_json(Console(), known)
    else:
        known = asyncio.run(status.show(Console(), context.obj))
    raise typer.Exit(0 if known["state"] == State.READY else 1)


def _logs(
    context: typer.Context,
    part: Annotated[str | None, typer.Argument(help="Name of the part. By default the names are listed.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
) -> None:
    """Show the log of a part."""
    folder: Folder = context.obj
    names = sorted(log.stem for log in folder.logs.glob("*.log"))
    if part is None:
        sys.stdout.write("\n".join(names) + "\n" if names else "There are no logs: nothing was started yet.\n")
        return
    if part not in names:
        raise Failed(f"There is no log of {part!r} in {folder.logs}. There is: {', '.join(names) or 'none'}.")
    with folder.log(part).open(errors="replace") as log:
        try:
            while True:
                sys.stdout.write(log.read())
                sys.stdout.flush()
                if not follow:
                    return
                time.sleep(FOLLOW_EVERY_S)
        except KeyboardInterrupt:
            return


def _login(
    context: typer.Context,
    tenant: Annotated[str, typer.Option(help="The tenant that the token names.")] = login.DEVELOPER.tenant,
    user: Annotated[str, typer.Option(help="The user that the token names.")] = login.DEVELOPER.user,
    role: Annotated[list[str] | None, typer.Option(help="A role of the user. By default admin.")] = None,
    ttl: Annotated[str, typer.Option(help="How long the token is good: 90s, 30m or 8h.")] = login.USUAL_TTL,
    printed: Annotated[
        bool, typer.Option("--print", help="Print the token; without other options the one there is.")
    ] = False,
) -> None:
    """Become somebody towards a stack that was started with --auth. The token is kept in the work folder."""
    folder: Folder = context.obj
    sources = (context.get_parameter_source(name) for name in _WHO)
    asked = any(source is not None and source.name != "DEFAULT" for source in sources)
    try:
        if printed and not asked:
            known = login.credentials_for(folder, None, None)
        else:
            wanted = Principal(tenant, user, login.roles_of(role or []))
            known = login.log_in(folder, wanted, login.seconds(ttl))
    except ValueError as error:
        raise Failed(str(error)) from None
    if printed:
        sys.stdout.write(f"{known.token}\n")
        return
    until = time.strftime("%H:%M:%S", time.localtime(known.expires))
    said = (
        f"{known.user} of {known.tenant} is logged in until {until}, with the roles {', '.join(sorted(known.roles))}."
    )
    Console().print(said, markup=False, highlight=False, soft_wrap=True)


def _agents_apply(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Folder with agent.yaml and knowledge/*.md, or an agent's YAML file.")],
    prune: Annotated[bool, typer.Option("--prune", help="A file alone removes documents applied before.")] = False,
    tenant: Tenant = None,
    user: User = None,
) -> None:
    """Make an agent what its files say: the agent, its documents, its intents."""
    from services.dev import agentfile, agents
    from services.dev.stack import target_of

    folder: Folder = context.obj
    source = agentfile.read(path)
    state = running(folder)
    target = target_of(state, folder, login.principal_for(folder, tenant, user, auth=state.auth))
    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    asyncio.run(agents.apply(source, target, say, prune=prune))


def _agents_list(context: typer.Context, as_json: AsJson = False, tenant: Tenant = None, user: User = None) -> None:
    """List the agents."""
    with advising(context.obj, tenant, user):
        found = asyncio.run(_list(edge_of(context.obj, running(context.obj), tenant, user)))
    if as_json:
        print_json(Console(), found)
        return
    for agent in found["agents"]:
        line = f"{agent['name']:<20} revision {agent['revision']:<4} {agent['display_name']}"
        Console().print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)


async def _list(edge: Edge) -> dict[str, Any]:
    async with orchestrator_at(edge) as client:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        request = sessions_pb2.ListAgentsRequest()
        reply = await client.unary(stub.ListAgents, request, timeout=TIMEOUT_S)
        return to_dict(reply)
