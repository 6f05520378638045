"""No id, however it is made, reaches a key that is not its owner's: all keys of a Redis Cluster, after the attempt."""

import hashlib
import re
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from redis.asyncio import Redis
from redis.crc import key_slot

from services.kit.call import Principal
from tests.security.test_tenants import holdings
from tests.security.world import Refusal, World, paying, somebody
from tests.support.requests import ROWS, Names, method_of, methods, path, service_of
from tests.support.rows.toolexec import HOOK

VICTIM = "acme-of-the-keys"
HOSTILE = [
    f"{VICTIM}}}",
    f"{{{VICTIM}}}",
    f"{VICTIM}}}:agent:{{x",
    f"{VICTIM}/ann",
    f"{VICTIM}/",
    f"/{VICTIM}",
    f"{VICTIM}:agents",
    f"myriad:{{{VICTIM}}}:agents",
    f"{VICTIM}%2Fann",
    f"{VICTIM}%7D",
    f"{VICTIM} ",
    f" {VICTIM}",
    VICTIM.upper(),
    "{}",
    "}{",
    "{",
    "}",
    "*",
    "?" * len(VICTIM),
    "[a-z]*",
    "..",
    "../" + VICTIM,
    "\\" + VICTIM,
    f'{VICTIM}"',
    f"{VICTIM}' or '1'='1",
    "%-" + "0" * 64,
    "x" * 256,
    "}" * 256,
    "$KEYS[1]",
]
"""Names that Envoy would pass on, of tenants and of users."""

UNPRINTABLE = ["a\nb", "a\rb", f"{VICTIM}\x00", "\x7f", "аcme", "ａｃｍｅ", "acme\u200b", "acmé", "\u202eemca"]
KINDS = {
    "tenant": {
        "agents",
        "agent",
        "events",
        "tenant_budget",
        "tenant_reservations",
        "dead_letters",
        "dead_letter_texts",
    },
    "user": {"sessions", "created", "begun", "reply", "user_budget", "user_reservations"},
    "session": {"session", "lease", "work", "history", "requests", "request_times", "log", "tool", "execution"}
    | {"line", "records", "callback", "approvals", "effects"},
}
PASSING = {"outbox"}
"""Of a session, gone by itself a moment later."""
KEY = re.compile(r"myriad:\{([A-Za-z0-9_.~@%-]+)(?:/([A-Za-z0-9_.~@%-]+))?\}:([a-z_]+)(?::[A-Za-z0-9_.~@%:-]+)?")
NO_ID = [f"{VICTIM}}}", "*", "a/b", "{}", "a\nb", "a\x00b", "a b", "аcme", "x" * 300, 'a"']
IDS = {"session_id", "run_id", "request_id", "agent", "name", "collection", "collections", "document_id", "tool"}
IDS |= {"document_ids", "idempotency_key", "page_token"}
BATCH = "requests"
UNKNOWN_TOOLS = {("NOT_FOUND", field) for field in ("tool", "call.tool")}
"""The name of a tool is looked for among those of its agent, and reaches no key unless it is one of them."""


def stands_for(part: str, original: str) -> bool:
    """Whether a part of a tag is this id and no other."""
    if part.startswith("%-"):
        return part == "%-" + hashlib.sha256(quote(original, safe="@").encode()).hexdigest()
    return unquote(part) == original


def kind_of(key: str) -> str:
    """The kind of a key, which must be formed like one."""
    found = KEY.fullmatch(key)
    assert found is not None, key
    return found[3]


def is_of(key: str, principal: Principal, sessions: set[str]) -> bool:
    """Whether a key is the principal's, by its tag, and of a kind that belongs to such a tag."""
    found = KEY.fullmatch(key)
    assert found is not None, key
    tenant, second, kind = found.groups()
    if not stands_for(tenant, principal.tenant):
        return False
    if second is None:
        return kind in KINDS["tenant"]
    if kind in KINDS["user"]:
        return stands_for(second, principal.user)
    return kind in KINDS["session"] | PASSING and any(stands_for(second, session) for session in sessions)


def lasting(keys: dict[str, bytes]) -> dict[str, bytes]:
    """Those that do not go by themselves."""
    return {key: value for key, value in keys.items() if kind_of(key) not in PASSING}


async def live(world: World, principal: Principal) -> set[str]:
    """Writes a key of every kind. Returns the sessions made."""
    names = await world.furnish(principal)
    named = ROWS[path(method_of("memory.CreateSession"))].build(names)
    named.request_id = "r-1"  # type: ignore[attr-defined]
    other = await world.told(principal, "memory.CreateSession", named)
    begin = ROWS[path(method_of("memory.BeginTurn"))].build(replace(names, session=other.session.session_id))
    begin.request_id = "r-2"  # type: ignore[attr-defined]
    await world.told(principal, "memory.BeginTurn", begin)
    await world.told(principal, "toolexec.Execute", ROWS[path(method_of("toolexec.Execute"))].build(names))
    feedback = "orchestrator.SubmitFeedback"
    await world.told(principal, feedback, ROWS[path(method_of(feedback))].build(names))
    create = ROWS[path(method_of("orchestrator.CreateRun"))].build(names)
    create.callback_url = HOOK  # type: ignore[attr-defined]
    await world.told(principal, "orchestrator.CreateRun", create)
    return {names.session, other.session.session_id, (await paying(world, principal)).run_id.rpartition(".")[0]}


@pytest.fixture(scope="module")
async def victim(world: World) -> tuple[Principal, Names]:
    principal = somebody(VICTIM)
    return principal, await world.furnish(principal)


@pytest.mark.parametrize("where", ["tenant", "user"])
async def test_every_key_is_in_the_tag_of_who_wrote_it(
    world: World, victim: tuple[Principal, Names], where: str
) -> None:
    kept, before = await holdings(world, *victim), await world.keys()
    writers = [Principal(name, "ann") if where == "tenant" else Principal(f"{VICTIM}-users", name) for name in HOSTILE]
    sessions = [await live(world, writer) for writer in writers]
    after = await world.keys()
    assert [key for key in lasting(before) if after.get(key) != before[key]] == []
    by_writer = {
        writer: {key for key in after.keys() - before.keys() if is_of(key, writer, made)}
        for writer, made in zip(writers, sessions, strict=True)
    }
    assert set().union(*by_writer.values()) == after.keys() - before.keys()
    for writer, keys in by_writer.items():
        assert {kind_of(key) for key in keys} - PASSING == {kind for kinds in KINDS.values() for kind in kinds}, writer
    # Users of one tenant share what is the tenant's, and nothing else.
    shared = {key for key in after.keys() - before.keys() if sum(key in keys for keys in by_writer.values()) > 1}
    assert shared == ({key for key in shared if kind_of(key) in KINDS["tenant"]} if where == "user" else set())
    assert await holdings(world, *victim) == kept


async def test_the_slot_of_every_key_is_the_one_of_its_tag(world: World, victim: tuple[Principal, Names]) -> None:
    """As the server computes it: what one function touches lies on one node."""
    keys = [*await world.keys()]
    host, _, port = world.redis_url.partition("://")[2].split(",")[0].partition(":")
    async with Redis(host=host, port=int(port), protocol=2) as node:
        for key in keys:
            tag = key[key.index("{") + 1 : key.index("}")]
            assert await node.cluster("KEYSLOT", key) == key_slot(tag.encode()), key
    assert len(keys) > 10


@pytest.mark.parametrize("name", UNPRINTABLE, ids=ascii)
async def test_a_name_that_is_not_printable_ascii_is_nobodys(world: World, name: str) -> None:
    before = await world.keys()
    for principal in (Principal(name, "ann"), Principal("acme", name)):
        for rpc in ("PutAgent", "CreateSession", "ListSessions"):
            method = method_of(f"memory.{rpc}")
            refused = await world.ask(principal, method, ROWS[path(method)].build(Names.absent()))
            assert isinstance(refused, Refusal)
            assert refused.code == "INVALID_ARGUMENT"
    assert lasting(await world.keys()) == lasting(before)


def ids_in(message: Message, prefix: str = "") -> list[str]:
    """Paths of the fields that hold ids: `agent.name`; of a batch, those of its first item: `requests.0.session_id`."""
    found = []
    for field, value in message.ListFields():
        if field.message_type is not None and field.name == BATCH:
            found += ids_in(value[0], f"{prefix}{field.name}.0.")
        elif field.message_type is not None and not field.is_repeated:
            found += ids_in(value, f"{prefix}{field.name}.")
    texts = (field for field in message.DESCRIPTOR.fields if field.type == FieldDescriptor.TYPE_STRING)
    return found + [prefix + field.name for field in texts if field.name in IDS]


def with_id(message: Message, field: str, value: str) -> Message:
    """The message with another id in one of its fields."""
    *parents, last = field.split(".")
    changed = type(message)()
    changed.CopyFrom(message)
    holder: Any = changed
    for parent in parents:
        holder = holder[int(parent)] if parent.isdecimal() else getattr(holder, parent)
    if holder.DESCRIPTOR.fields_by_name[last].is_repeated:
        del getattr(holder, last)[:]
        getattr(holder, last).append(value)
    else:
        setattr(holder, last, value)
    return changed


@pytest.mark.parametrize("method", methods(), ids=[f"{service_of(each)}.{each.name}" for each in methods()])
async def test_an_id_that_is_none_reaches_no_store(
    world: World, victim: tuple[Principal, Names], method: MethodDescriptor
) -> None:
    """By the contract of each RPC, found from its descriptor: no id of it takes such a value."""
    principal, names = victim
    before = await world.keys()
    request = ROWS[path(method)].build(names)
    for field in ids_in(request):
        # The key of a call may hold colons; that it is encoded is shown above.
        for value in NO_ID if field.endswith("idempotency_key") else ["a:b", *NO_ID]:
            refused = await world.ask(principal, method, with_id(request, field, value))
            assert isinstance(refused, Refusal), (field, value)
            assert (refused.code, field) in UNKNOWN_TOOLS or refused.code == "INVALID_ARGUMENT", (field, value)
    assert await world.keys() == before


def test_pasted_instead_of_encoded_these_names_do_reach_the_victim() -> None:
    """The control: keys as they would be without `encode`."""
    victims = key_slot(f"myriad:{{{VICTIM}}}:agents".encode())
    meeting = [name for name in HOSTILE if key_slot(f"myriad:{{{name}}}:agents".encode()) == victims]
    assert len(meeting) >= 2
    assert f"{VICTIM}/ann" in HOSTILE, "a tenant of this name would have its agents in a user's tag"
