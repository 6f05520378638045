"""Who may call what: every RPC of every service, from the edge with a token and from inside with the mesh's.

What is expected follows from the RPC's own `access` and from its row in tests/support/rows/.
"""

import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor
from joserfc import jwt
from joserfc.jwk import ECKey

from myriad.common.v1 import common_pb2 as common
from myriad.orchestrator.v1 import run_event_pb2, run_pb2, sessions_pb2
from myriad.toolexec.v1 import toolexec_pb2 as toolexec
from services.dev import identity, login
from services.dev.state import Folder
from services.kit.call import Principal
from services.kit.interceptors.identity import ROLES, TENANT, USER
from tests.support.access import CLERK, TTL_S, Guarded, guarded, somebody
from tests.support.cgroup import frozen
from tests.support.command_line import CommandLine, pasted
from tests.support.requests import ROWS, Answer, Names, Owner, method_of, methods, path, service_of

FOUND_OUT_S = 6.0
"""So late all have found out who stands still, and who goes on."""


def access(method: MethodDescriptor) -> common.Access | None:
    """Who may call an RPC through Envoy. None: nobody."""
    options = method.GetOptions()
    if not options.HasExtension(common.access):  # type: ignore[arg-type]
        return None
    found: common.Access = options.Extensions[common.access]  # type: ignore[index]
    return found


def roles_of(method: MethodDescriptor) -> list[str]:
    """One of these is asked for at the edge. None are: any will do."""
    rights = access(method)
    return list(rights.roles) if rights else []


METHODS = methods()
FROM_OUTSIDE = [method for method in METHODS if access(method) is not None]
FROM_INSIDE = [method for method in METHODS if access(method) is None]
NEEDY = [method for method in METHODS if roles_of(method)]


def each(found: list[MethodDescriptor]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", found, ids=lambda method: f"{service_of(method)}.{method.name}")


@dataclass
class Running:
    """A stack that asks who calls, and what `up` printed."""

    myriad: CommandLine
    printed: str


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    myriad = CommandLine(tmp_path_factory.mktemp("guarded"))
    try:
        started = myriad("up", "--vertical", "--with-sim", "--auth", "--detach")
        assert started.returncode == 0, started.stdout + started.stderr
        yield Running(myriad, started.stdout)
    finally:
        myriad("down")


@pytest.fixture(scope="module")
async def world(stack: Running) -> AsyncIterator[Guarded]:
    async with guarded(Folder(stack.myriad.work), stack.myriad.state()) as made:
        yield made


def strangers_answer(method: MethodDescriptor, names: Names, answer: str) -> None:
    """Holds what one is answered who does not own what the request names."""
    row = ROWS[path(method)]
    if row.answer is Answer.NOT_FOUND:
        assert answer.startswith("NOT_FOUND "), answer
        return
    assert answer.startswith("OK "), answer
    if row.answer is Answer.LEFT_OUT:
        assert answer == "OK ", answer
    for name in (names.session, names.run):
        assert name not in answer


@each(METHODS)
def test_every_rpc_says_how_its_request_is_filled(method: MethodDescriptor) -> None:
    assert path(method) in ROWS, f"tests/support/rows/ has no row for {path(method)}"


@each(FROM_OUTSIDE)
async def test_without_a_token_nobody_is_served_at_the_edge(world: Guarded, method: MethodDescriptor) -> None:
    expected = "OK " if access(method).public else "UNAUTHENTICATED UNAUTHENTICATED"  # type: ignore[union-attr]
    request = ROWS[path(method)].build(Names.absent())
    assert (await world.answer(world.edge, method, request, [])).startswith(expected)
    forged = [(TENANT, "acme"), (USER, "ada"), (ROLES, "admin")]
    assert (await world.answer(world.edge, method, request, forged)).startswith(expected)


@each(FROM_OUTSIDE)
async def test_at_the_edge_a_token_opens_what_is_its_owners(world: Guarded, method: MethodDescriptor) -> None:
    """The right one is asked last: it may delete what the others must not see."""
    row, rights = ROWS[path(method)], access(method)
    assert rights is not None
    owner = somebody(roles=[*rights.roles[:1]])
    names = await world.furnish(owner, method)
    request = row.build(names)

    stranger = somebody(roles=owner.roles)
    strangers_answer(method, names, await world.answer(world.edge, method, request, world.token(stranger)))
    if row.owner is Owner.USER:
        neighbour = somebody(owner.tenant, owner.roles)
        strangers_answer(method, names, await world.answer(world.edge, method, request, world.token(neighbour)))
    served = await world.answer(world.edge, method, request, world.token(owner))
    assert served.startswith("OK "), served
    assert row.answer is not Answer.LEFT_OUT or served != "OK "


@each(NEEDY)
async def test_an_rpc_that_asks_for_a_role_is_refused_to_who_lacks_it(world: Guarded, method: MethodDescriptor) -> None:
    """Whatever other role they have, on what is their own; with the right one they are served, as shown above."""
    wanted = roles_of(method)
    owner = somebody(roles=wanted[:1])
    request = ROWS[path(method)].build(await world.furnish(owner, method))
    others = {"", "visitor", *(role for each in NEEDY for role in roles_of(each))} - {*wanted}
    for role in sorted(others):
        refused = await world.answer(world.edge, method, request, world.token(identity_of(owner, role)))
        assert refused == "PERMISSION_DENIED ROLE_REQUIRED", role


def test_the_rpcs_that_ask_for_a_role_are_those_of_operators() -> None:
    operators = ["admin", "operator"]
    expected = {"WatchEvents": operators, "ListDeadLetters": operators, "RedriveDeadLetter": operators}
    assert {method.name: roles_of(method) for method in NEEDY} == {**expected, "SetBudget": ["admin"]}


def identity_of(owner: Principal, role: str) -> Principal:
    return Principal(owner.tenant, owner.user, frozenset({role}))


@each(FROM_INSIDE)
async def test_what_is_internal_has_no_way_in_at_the_edge(world: Guarded, method: MethodDescriptor) -> None:
    admin = somebody(roles=["admin"])
    request = ROWS[path(method)].build(Names.absent())
    assert (await world.answer(world.edge, method, request, world.token(admin))).startswith("UNIMPLEMENTED ")


@each(METHODS)
async def test_without_the_meshs_token_nobody_is_served_inside(world: Guarded, method: MethodDescriptor) -> None:
    """However they came there, and whoever they say they are."""
    request = ROWS[path(method)].build(Names.absent())
    said = world.mesh(somebody(roles=["admin"]))[:-1]
    assert [name for name, _ in said] == [TENANT, USER, ROLES]
    for metadata in ([], said, [*said, ("x-myriad-mesh-token", "guessed")], world.token(somebody())):
        answer = await world.answer(world.inside, method, request, metadata)
        assert answer == "UNAUTHENTICATED UNAUTHENTICATED", metadata


@each(FROM_INSIDE)
async def test_inside_a_peer_is_served_for_whom_it_names(world: Guarded, method: MethodDescriptor) -> None:
    row, owner = ROWS[path(method)], somebody()
    names = await world.furnish(owner, method)
    request = row.build(names)
    assert await world.answer(world.inside, method, request, world.mesh(None)) == "UNAUTHENTICATED UNAUTHENTICATED"

    strangers_answer(method, names, await world.answer(world.inside, method, request, world.mesh(somebody())))
    if row.owner is Owner.USER:
        neighbour = world.mesh(somebody(owner.tenant))
        strangers_answer(method, names, await world.answer(world.inside, method, request, neighbour))
    served = await world.answer(world.inside, method, request, world.mesh(owner))
    assert served.startswith("OK "), served
    assert row.answer is not Answer.LEFT_OUT or served != "OK "


async def token_of(world: Guarded, **changes: object) -> str:
    """What the first RPC answers to a token that is right but for the changes; `key` is the file that signs."""
    now = int(time.time())
    claims = {"iss": identity.ISSUER, "aud": identity.AUDIENCE, "sub": "ada", "tenant": "acme", "roles": ""}
    claims |= {"iat": now - 5, "nbf": now - 5, "exp": now + 300, **changes}  # type: ignore[dict-item]
    key = ECKey.import_key(json.loads((world.folder.keys / "signing.json").read_text()))
    if changes.get("kid") == "other":
        key = ECKey.generate_key("P-256", {"kid": str(key.kid), "alg": "ES256"})
    kept = {name: value for name, value in claims.items() if name != "kid" and value is not None}
    made = jwt.encode({"alg": "ES256", "kid": key.kid}, kept, key, algorithms=["ES256"])
    (listing,) = (method for method in FROM_OUTSIDE if method.name == "ListAgents")
    answer = await world.answer(
        world.edge, listing, sessions_pb2.ListAgentsRequest(), [("authorization", f"Bearer {made}")]
    )
    return answer.partition(" ")[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "OK"),
        ({"exp": None}, "UNAUTHENTICATED"),
        ({"exp": 1_000_000_000}, "UNAUTHENTICATED"),
        ({"exp": 4_000_000_000}, "UNAUTHENTICATED"),
        ({"iss": "somebody"}, "UNAUTHENTICATED"),
        ({"aud": "other"}, "PERMISSION_DENIED"),
        ({"tenant": None}, "PERMISSION_DENIED"),
        ({"kid": "other"}, "UNAUTHENTICATED"),
    ],
    ids=["right", "endless", "ended", "too long", "issuer", "audience", "no tenant", "another's key"],
)
async def test_a_token_counts_only_as_it_was_agreed(world: Guarded, changes: dict[str, object], expected: str) -> None:
    assert await token_of(world, **changes) == expected


async def test_a_tool_that_needs_a_role_is_refused_to_who_lacks_it(world: Guarded) -> None:
    clerk = somebody(roles=[CLERK])
    execute = method_of("toolexec.Execute")
    names = await world.furnish(clerk, execute)
    request = ROWS[path(execute)].build(names)
    assert isinstance(request, toolexec.ExecuteRequest)
    request.tool = "file"
    other = identity_of(clerk, "admin")
    refused = await world.answer(world.inside, execute, request, world.mesh(other))
    assert refused == "PERMISSION_DENIED TOOL_NOT_ALLOWED"
    assert (await world.answer(world.inside, execute, request, world.mesh(clerk))).startswith("OK ")


@pytest.mark.parametrize(
    ("role", "outcome"), [(CLERK, run_event_pb2.TOOL_OUTCOME_OK), ("admin", run_event_pb2.TOOL_OUTCOME_REFUSED)]
)
async def test_the_roles_of_a_token_reach_the_tools_of_a_turn(world: Guarded, role: str, outcome: int) -> None:
    caller = somebody(roles=[role])
    (run_turn,) = (method for method in METHODS if method.name == "RunTurn")
    names = await world.furnish(caller, run_turn)
    call = {"name": "file", "arguments": {"expression": "6*7"}}
    script = f"#sim {json.dumps({'tool_calls': [call], 'then': {'text': 'done'}})}"
    asked = run_pb2.RunTurnRequest(session_id=names.session, input=script)
    events = await world.replies(world.edge, run_turn, asked, world.token(caller))
    (finished,) = (event.tool_finished for event in events if event.WhichOneof("event") == "tool_finished")
    assert finished.outcome == outcome, finished
    assert events[-1].completed.answer == "done"


def test_without_a_login_a_command_says_which_command_makes_one(stack: Running) -> None:
    Folder(stack.myriad.work).credentials.unlink(missing_ok=True)
    for arguments in (["agents", "list"], ["login", "--print"]):
        refused = stack.myriad(*arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.partition("Run: ")[2].split()[-1] == "login"


def test_what_up_prints_to_try_works_when_pasted(stack: Running) -> None:
    tried = re.findall(r"^([A-Z][^:\n]+):\n((?:  .+\n)+)", stack.printed, re.MULTILINE)
    done = {heading: pasted(lines) for heading, lines in tried if heading != "Talk"}
    assert [run.returncode for run in done.values()] == [0, 0, 0], done
    assert "dev of dev is logged in until " in done["Log in"].stdout
    assert "30" in done["Ask a question"].stdout
    assert '"completed"' in done["The same over HTTP, as server-sent events"].stdout


def test_one_process_does_the_same_turn(stack: Running) -> None:
    """As five do: it understands, finds the document, and calls the tool."""
    login.log_in(Folder(stack.myriad.work), Principal("dev", "dev"), TTL_S)
    questions = ("How many days do I have to return an item?", "Where is my order 1007?")
    told = [json.loads(stack.myriad("ask", question, "--json").stdout) for question in questions]
    assert ["30" in each["answer"] for each in told] == [True, False]
    assert [[tool["tool"] for tool in each["tools"]] for each in told] == [[], ["order_status"]]
    for each in told:
        assert "completed" in each["events"][-1]
        assert not any("degraded" in event for event in each["events"])


def asked_for_facts(stack: Running) -> set[str]:
    """What a turn did without that needs documents."""
    told = json.loads(stack.myriad("ask", "How many days do I have to return an item?", "--json").stdout)
    assert "completed" in told["events"][-1]
    return {event["degraded"]["component"] for event in told["events"] if "degraded" in event}


@pytest.mark.chaos
def test_one_process_goes_on_without_a_milvus_that_stands_still(stack: Running) -> None:
    """Also once Envoy and the process itself have found out: retrieval is not ready, and the orchestrator is."""
    login.log_in(Folder(stack.myriad.work), Principal("dev", "dev"), TTL_S)
    assert asked_for_facts(stack) == set()  # the control
    with frozen(stack.myriad.state().parts["milvus"].pid):
        assert asked_for_facts(stack) == {"retrieval"}
        time.sleep(FOUND_OUT_S)
        assert stack.myriad.status()["parts"]["vertical"]["state"] == "unready"
        assert asked_for_facts(stack) == {"retrieval"}
    began = time.monotonic()
    while asked_for_facts(stack):
        assert time.monotonic() - began < FOUND_OUT_S


def test_a_login_is_who_the_commands_are(stack: Running, tmp_path: Path) -> None:
    said = stack.myriad("login", "--tenant", "globex", "--user", "grace", "--role", "clerk", "--ttl", "5m")
    assert re.match(r"grace of globex is logged in until .*, with the roles clerk\.", said.stdout)
    file = tmp_path / "helper.yaml"
    file.write_text("name: helper\npersona: You help.\nmodel: {model: sim_llm}\n")
    assert stack.myriad("agents", "apply", str(file)).returncode == 0
    listed = json.loads(stack.myriad("agents", "list", "--json").stdout)["agents"]
    assert [agent["name"] for agent in listed] == ["helper"]
    answered = stack.myriad("ask", '#sim {"text": "hello Grace"}', "--agent", "helper")
    assert answered.stdout.startswith("hello Grace"), answered.stderr
    other = stack.myriad("ask", "hello", "--tenant", "dev")
    assert other.returncode == 1
    assert "grace of globex is logged in" in other.stderr
    refused = stack.myriad("login", "--ttl", "25h")
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", "a token lives 1 s to 24 h\n")


def test_a_token_that_is_not_taken_is_answered_with_the_way_to_one(stack: Running) -> None:
    login.log_in(Folder(stack.myriad.work), Principal("dev", "dev"), TTL_S)
    credentials = Folder(stack.myriad.work).credentials
    known = json.loads(credentials.read_text())
    credentials.write_text(json.dumps({**known, "token": known["token"][:-8] + "AAAAAAAA"}))
    refused = stack.myriad("agents", "list")
    assert "UNAUTHENTICATED" in refused.stderr
    assert pasted(refused.stderr.partition("Run: ")[2]).returncode == 0
    assert login.logged_in(Folder(stack.myriad.work)) is not None
