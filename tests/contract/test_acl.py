"""Who may touch what in Redis: each user all that its service does, and nothing else.

That it may do it all is shown by the tests of the ports too, which work under the users of their services.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from redis.asyncio import Redis as Client
from redis.exceptions import NoPermissionError, ResponseError

from services.kit import topology
from services.kit.acl import CONNECTION, OPERATOR, ROWS, USERS, Row, acl_file
from services.kit.call import Principal
from services.kit.errors import StoreUnavailable
from services.kit.functions import read_library
from services.kit.keys import STOPS, QueueKeys, SessionKeys
from services.kit.queue import CALLBACK_QUEUE, RUN_QUEUES, TOOL_QUEUE, Item
from services.kit.queue_redis import RedisQueue
from services.kit.redis import Redis
from tests.support import rights
from tests.support.valkey import PASSWORDS, UserRedis, as_user, running_valkey

SERVICES = [row.user for row in ROWS]
KINDS = rights.kinds()
DANGEROUS = {"role"}
"""Of what the server calls dangerous only this is needed: a client of Sentinels asks who is the primary."""

FOREIGN = {
    "memory": {
        "{t/u}": "reply",
        "{t}": "events dead_letters dead_letter_texts",
        "{!owners}": "owners sessions",
        "{!queue/q}": "items waiting since delayed turns counts order claimed wake dead",
    },
    "orchestrator": {
        "{t/s}": "tool execution effects history",
        "{t/u}": "sessions created user_budget user_reservations",
        "{t}": "tenant_budget tenant_reservations agents agent",
    },
    "toolexec": {
        "{t/s}": "lease history requests request_times records outbox",
        "{t/u}": "sessions created begun reply user_budget user_reservations",
        "{t}": "tenant_budget tenant_reservations agents agent events dead_letters dead_letter_texts",
        "{!owners}": "owners sessions",
    },
}
"""Kinds of keys that a service has nothing to do with, by their tags as the table of `keys.py` writes them."""

ONLY_READ = ["myriad:{acme/s1}:session", "myriad:{acme/s1}:line", "myriad:{acme/s1}:log:x"]
"""By toolexec."""

BESIDES = {"memory": ["function|load"], "orchestrator": ["subscribe", "unsubscribe"]}
"""What the client and its listener call for a service, which no adapter says."""

FORBIDDEN = [
    *[("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("DBSIZE",), ("FLUSHALL", "nonsense"), ("FLUSHDB", "nonsense")],
    *[("CONFIG", "GET", "port"), ("EVAL", "return 1", 0), ("EVALSHA", "x", 0), ("SCRIPT", "HELP")],
    *[("FUNCTION", "FLUSH", "nonsense"), ("FUNCTION", "DELETE", "none"), ("FUNCTION", "DUMP"), ("ACL", "LIST")],
    *[("CLIENT", "LIST"), ("SHUTDOWN", "nonsense"), ("REPLICAOF", "no", "where"), ("INFO",), ("PSUBSCRIBE", "*")],
]
"""What whoever takes a service over would like to do. None of it changes anything here, where it is allowed."""


@pytest.fixture(scope="module")
async def root(valkey_url: str) -> AsyncIterator[Client]:
    """Who may do everything, as who is no user may in tests: what is refused to the others, is not to this one."""
    await _load(valkey_url)
    async with Client.from_url(valkey_url, protocol=2) as client:
        yield client


@pytest.fixture(params=SERVICES)
async def user(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(valkey_url: str, root: Client, user: str) -> AsyncIterator[Client]:
    """A service, or who has taken it over."""
    async with Client.from_url(as_user(valkey_url, user), protocol=2) as made:
        yield made


async def _load(url: str) -> None:
    redis = Redis(url)
    await redis.check()
    await redis.close()


async def is_refused(client: Client, *command: str | int) -> bool:
    """Whether a user may not; other failures are of whoever may."""
    try:
        await client.execute_command(*command)
    except NoPermissionError:
        return True
    except ResponseError as error:
        return "ACL failure" in str(error)
    return False


def foreign(user: str) -> list[str]:
    """A key of each kind that is none of a user's."""
    found = []
    for row, key in KINDS.items():
        tag, _, kind = row.partition("}:")
        if kind.partition(":")[0] in FOREIGN[user].get(f"{tag}}}", "").split():
            found.append(key)
    assert len(found) == sum(len(kinds.split()) for kinds in FOREIGN[user].values())
    return found


def test_every_kind_of_key_is_in_the_table_and_somebodys() -> None:
    patterns = [pattern for row in ROWS for pattern in (*row.writes, *row.reads)]
    for key in KINDS.values():
        assert [pattern for pattern in patterns if fnmatchcase(key, pattern)], key
    for key in rights.made_keys():
        assert [row for row, known in KINDS.items() if f"{key}:".startswith(f"{known.removesuffix(':x')}:")], key
    assert [pattern for pattern in patterns if not any(fnmatchcase(key, pattern) for key in _all_keys())] == []


def test_every_service_that_needs_the_store_is_a_user_of_it() -> None:
    assert {name for name, service in topology.SERVICES.items() if "valkey" in service.needs} == {*SERVICES}


def _all_keys() -> list[str]:
    queues = [
        key.replace("SIMPLE", name) for key in KINDS.values() for name in (*RUN_QUEUES, TOOL_QUEUE, CALLBACK_QUEUE)
    ]
    return [*KINDS.values(), *queues]


@pytest.mark.parametrize("row", ROWS, ids=SERVICES)
async def test_a_user_may_call_what_its_service_calls_and_no_more(one: Redis, row: Row) -> None:
    """What it calls is read from its adapters and the functions they name."""
    known = {name.decode() for name in await one.execute("COMMAND", "LIST")}
    called = rights.commands_of(row.user, known) | set(BESIDES.get(row.user, ()))
    assert set(row.commands) | set(CONNECTION) == called | set(CONNECTION)


async def test_no_user_has_a_command_that_the_server_calls_dangerous(root: Client) -> None:
    dangerous = {name.decode() for name in await root.execute_command("ACL", "CAT", "dangerous")}
    assert {each for row in ROWS for each in (*row.commands, *CONNECTION)} & dangerous == DANGEROUS


async def test_a_users_keys_are_its_own_and_what_it_only_reads_it_cannot_change(client: Client, user: str) -> None:
    others, shown = foreign(user), ONLY_READ if user == "toolexec" else []
    assert [key for key in KINDS.values() if await is_refused(client, "HGET", key, "f")] == others
    unwritten = [key for key in KINDS.values() if await is_refused(client, "HDEL", key, "f")]
    assert sorted(unwritten) == sorted([*others, *shown])


async def test_a_function_is_refused_the_keys_of_others(client: Client, user: str) -> None:
    function = f"session_get_{read_library().version}"
    called = [key for key in KINDS.values() if await is_refused(client, "FCALL", function, 1, key, "nobody")]
    assert called == foreign(user)


async def test_a_function_does_no_more_than_its_caller_may(valkey_url: str, root: Client) -> None:
    """Toolexec may read a session and a log, so it may name them to any function; that writes nothing into them."""
    keys = SessionKeys(Principal(uuid.uuid4().hex, "ann"), "s1")
    await root.hset(keys.session, mapping={"owner": "ann", "runs": 1, "current": 1})
    await root.zadd(keys.line, {"1": 1})
    command = ("FCALL", f"line_later_{read_library().version}", 3, keys.session, keys.line, keys.log(1), "ann")
    telling = ("FCALL", f"feedback_put_{read_library().version}", 1, keys.session, "ann", 1, "bad")
    async with Client.from_url(as_user(valkey_url, "toolexec"), protocol=2) as toolexec:
        assert not await is_refused(toolexec, *command)
        assert await is_refused(toolexec, *telling)
        assert await root.hget(keys.session, "feedback:1") is None
    assert not await is_refused(root, *telling)  # the control
    assert await root.hget(keys.session, "feedback:1") == b"bad"
    await root.unlink(keys.session, keys.line)


async def test_a_user_has_no_command_that_looks_around_or_does_harm(client: Client, root: Client, user: str) -> None:
    assert [command for command in FORBIDDEN if not await is_refused(client, *command)] == []
    # A server that is set to have no DEBUG says so before it looks at who asks.
    said = [await root.execute_command("ACL", "DRYRUN", name, "DEBUG", "HELP") for name in (user, "default")]
    assert (b"no permissions" in said[0], said[1]) == (True, b"OK")


async def test_control_who_may_do_everything_is_refused_nothing(root: Client) -> None:
    function = f"session_get_{read_library().version}"
    asked = [command for key in KINDS.values() for command in (("HGET", key, "f"), ("FCALL", function, 1, key, "x"))]
    asked += [("HDEL", key, "f") for key in KINDS.values()]
    assert [command for command in (*asked, *FORBIDDEN) if await is_refused(root, *command)] == []


async def test_a_queue_of_others_is_refused(valkey_url: str) -> None:
    async with Client.from_url(as_user(valkey_url, "orchestrator"), protocol=2) as orchestrator:
        for queue in (TOOL_QUEUE, "another", "SIMPLE}:items", "{SIMPLE"):
            assert [await is_refused(orchestrator, "HGET", key, "f") for key in QueueKeys(queue).all] == [True] * 10
        assert not await is_refused(orchestrator, "HGET", QueueKeys("SIMPLE").all[0], "f")


async def test_channels_are_refused_as_keys_are(client: Client, user: str) -> None:
    session = "myriad:{acme/s1}:session"
    assert await is_refused(client, "PUBLISH", "elsewhere", "x")
    assert not await is_refused(client, "PUBLISH", session, "1")
    assert await is_refused(client, "PUBLISH", STOPS, "x") is (user == "toolexec")


async def test_who_is_no_user_may_only_ask_whether_the_server_is_there(tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    async with running_valkey(tmp_path) as url:
        async with Client.from_url(url, protocol=2) as nobody:
            file.write_text(acl_file(PASSWORDS))
            await nobody.execute_command("ACL", "LOAD")  # the last that it may
            assert await nobody.ping()
            for command in (*FORBIDDEN, ("GET", "x"), ("FCALL", "f", 0), ("SUBSCRIBE", STOPS), ("PUBLISH", STOPS, "")):
                assert await is_refused(nobody, *command), command
        async with Client.from_url(as_user(url, OPERATOR), protocol=2) as operator:
            assert await operator.set("x", "y")
            listed = b"\n".join(await operator.execute_command("ACL", "LIST")).decode()
    assert [user for user in USERS if f"user {user} on " not in listed] == []
    assert [password for password in PASSWORDS.values() if password in listed + file.read_text()] == []


async def test_only_memory_gives_a_server_the_functions_and_the_others_wait_for_it(valkey_url: str) -> None:
    clients = {user: Redis(as_user(valkey_url, user)) for user in SERVICES}
    root = Redis(valkey_url)
    await root.execute("FUNCTION", "FLUSH", "SYNC")
    for user in ("orchestrator", "toolexec"):
        with pytest.raises(StoreUnavailable, match="another user loads"):
            await clients[user].check()
        with pytest.raises(StoreUnavailable, match="another user loads"):
            await clients[user].call("queue_stats", QueueKeys("SIMPLE").all)
    await clients["memory"].check()
    for user in ("orchestrator", "toolexec"):
        await clients[user].check()
        assert len(await clients[user].call("queue_stats", QueueKeys("SIMPLE").all)) == 5
    await asyncio.gather(*(each.close() for each in (root, *clients.values())))


@pytest.mark.parametrize("where", ["one", "sentinel", "cluster"])
async def test_every_kind_of_connection_is_its_users(
    where: str, valkey_url: str, sentinel_url: str, cluster_url: str
) -> None:
    url = {"one": valkey_url, "sentinel": sentinel_url, "cluster": cluster_url}[where]
    root = Redis(url)
    await root.check()
    heard: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue()
    redis = Redis(as_user(url, "orchestrator"), replicas=int(where == "sentinel"))
    listener = redis.listener(lambda channel, message: heard.put_nowait((channel, message)))
    listener.listen(STOPS)
    listener.start()
    async with asyncio.timeout(10):
        assert await heard.get() == (STOPS, None)
        principal = Principal(uuid.uuid4().hex, "ann")
        await redis.call("callback_expect", (SessionKeys(principal, "s1").callback(1),), "https://a.b", 60_000)
        assert await redis.wait("XREAD", "BLOCK", 1, "STREAMS", QueueKeys("GPU").wake, "$", at_most=0.1) is None
        await redis.execute("PUBLISH", STOPS, "now")
        assert await heard.get() == (STOPS, b"now")
        hearing = b"".join(await root._calls.everywhere(("CLIENT", "LIST", "TYPE", "pubsub")))
        assert hearing.count(b"user=orchestrator ") == 1
    with pytest.raises(NoPermissionError):
        await redis.execute("GET", "myriad:{acme/ann}:user_budget")
    await asyncio.gather(listener.close(), redis.close(), root.close())
    stranger = Redis(as_user(url, "orchestrator").replace(PASSWORDS["orchestrator"], "guessed"))
    with pytest.raises(StoreUnavailable):
        await stranger.check()
    await stranger.close()


@pytest.mark.parametrize("where", ["one", "cluster"])
@pytest.mark.parametrize(
    ("user", "queue"),
    [*(("orchestrator", queue) for queue in RUN_QUEUES), ("toolexec", TOOL_QUEUE), ("toolexec", CALLBACK_QUEUE)],
)
async def test_who_works_on_a_queue_may_do_all_that_workers_do(
    where: str, user: str, queue: str, valkey_url: str, cluster_url: str
) -> None:
    redis = UserRedis({"one": valkey_url, "cluster": cluster_url}[where], user)
    await redis.root.execute("UNLINK", *QueueKeys(queue).all)
    gone, worker = RedisQueue(redis, "gone", 0.05), RedisQueue(redis, "worker", 0.05)
    due_ms = int(time.time() * 1000) + 60_000
    await worker.put(queue, [Item("a", "acme", b"1"), Item("b", "acme", b"2"), Item("c", "acme", b"3", due_ms=due_ms)])
    claimed = await gone.claim([queue], 2, 0)
    assert await gone.extend(claimed[0])
    assert await gone.put_back(claimed[0], 0)
    assert await gone.done(claimed[1])
    (again,) = await worker.claim([queue], 1, 1)
    assert await worker.bury(again)
    assert await worker.remove(queue, "c")
    assert await worker.claim([queue], 1, 0.02) == []
    stats = await worker.stats(queue)
    assert (stats.waiting, stats.delayed, stats.claimed) == (0, 0, 0)
    await asyncio.gather(gone.close(), worker.close())
    await redis.root.execute("UNLINK", *QueueKeys(queue).all)
    await redis.close()
