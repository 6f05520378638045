"""The client of Redis: one server, a primary under a Sentinel, a cluster of three primaries, the same behaviours."""

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis as Client
from redis.crc import key_slot
from redis.exceptions import ResponseError

from services.kit.errors import SessionNotFound, StoreUnavailable
from services.kit.functions import LOSABLE, read_library
from services.kit.redis import Redis
from tests.support.ports import free_port
from tests.support.proxy import Proxy, running_proxy
from tests.support.valkey import PATIENCE_S, restartable_valkey, running_cluster, running_sentinel, running_valkey


@pytest.fixture(params=["one", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest, valkey_url: str, sentinel_url: str, cluster_url: str) -> str:
    return {"one": valkey_url, "sentinel": sentinel_url, "cluster": cluster_url}[request.param]


@pytest.fixture
async def redis(url: str) -> AsyncIterator[Redis]:
    client = Redis(url, connections=5, timeout=PATIENCE_S)
    yield client
    await client.close()


def unique() -> str:
    return uuid.uuid4().hex


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:6379",
        "http://127.0.0.1",
        "redis+cluster://",
        "redis+cluster://a,b:1",
        "http+cluster://a:1",
        "redis+sentinel://a:1",
        "redis+sentinel://a/main",
        "http+sentinel://a:1/main",
    ],
)
def test_a_wrong_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|port"):
        Redis(url)


async def test_a_wrong_command_is_not_taken_for_an_unavailable_store(redis: Redis) -> None:
    key = unique()
    await redis.execute("SET", key, "text")
    with pytest.raises(ResponseError):
        await redis.execute("LPUSH", key, "x")


async def test_replies_come_as_the_server_sends_them(redis: Redis) -> None:
    key = unique()
    assert await redis.execute("SET", key, b"\x00old") == b"OK"
    assert await redis.execute("SET", key, "new", "GET") == b"\x00old"
    assert await redis.execute("GET", unique()) is None
    await redis.execute("XADD", f"{key}:log", "1-0", "e", b"\xff")
    assert await redis.execute("XRANGE", f"{key}:log", "-", "+") == [[b"1-0", [b"e", b"\xff"]]]


async def test_a_pipeline_answers_in_order_with_each_failure_in_its_place(redis: Redis) -> None:
    keys = [unique() for _ in range(20)]
    await redis.pipeline([("SET", key, i) for i, key in enumerate(keys)])
    replies = await redis.replies([*(("GET", key) for key in keys), ("LPUSH", keys[0], "x"), ("GET", keys[1])])
    assert replies[:20] == [str(i).encode() for i in range(20)]
    assert isinstance(replies[20], ResponseError)
    assert replies[21] == b"1"


async def test_300_parallel_calls_wait_for_a_small_pool(redis: Redis) -> None:
    key = unique()
    await redis.execute("SET", key, "x")
    assert await asyncio.gather(*(redis.execute("GET", key) for _ in range(300))) == [b"x"] * 300


async def test_a_function_that_the_server_lost_is_loaded_again(redis: Redis) -> None:
    await redis.check()
    await redis._calls.everywhere(("FUNCTION", "FLUSH", "SYNC"))
    with pytest.raises(SessionNotFound):
        await redis.call("session_get", (f"myriad:{{{unique()}}}:session",), "user")


async def test_the_check_loads_the_functions_everywhere(redis: Redis) -> None:
    await redis._calls.everywhere(("FUNCTION", "FLUSH", "SYNC"))
    await redis.check()
    assert all(await redis._calls.everywhere(("FUNCTION", "LIST")))


async def test_a_cancelled_call_leaves_nothing_to_the_next_reader(redis: Redis) -> None:
    mine, others = unique(), unique()
    await redis.pipeline([("SET", mine, "mine"), ("SET", others, "others")])
    for i in range(50):
        calls = [asyncio.create_task(redis.execute("GET", others)) for _ in range(10)]
        for _ in range(i % 7):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        assert await asyncio.gather(*(redis.execute("GET", mine) for _ in range(10))) == [b"mine"] * 10
        await asyncio.gather(*calls, return_exceptions=True)


async def test_cancelling_many_calls_loses_no_connection(redis: Redis) -> None:
    key = unique()
    for i in range(20):
        calls = [asyncio.create_task(redis.execute("GET", key)) for _ in range(100)]
        for _ in range(i):
            await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert [reply for reply in replies[1::2] if reply is not None] == []
    assert await asyncio.gather(*(redis.execute("GET", key) for _ in range(100))) == [None] * 100


async def test_a_blocking_read_holds_up_nobody(redis: Redis) -> None:
    key = unique()
    waiting = [
        asyncio.create_task(redis.wait("XREAD", "BLOCK", 5000, "STREAMS", f"{{{key}}}", "$", at_most=5.0))
        for _ in range(10)
    ]
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await asyncio.gather(*(redis.execute("GET", key) for _ in range(50)))
    assert time.monotonic() - began < 2.0
    await redis.execute("XADD", f"{{{key}}}", "*", "e", "x")
    assert all(await asyncio.gather(*waiting))


async def _lose_replies(redis: Redis, proxy: Proxy) -> None:
    """Increments 20 times, and loses the reply each time."""
    key = unique()
    for _ in range(20):
        await redis.execute("GET", key)
        asking = getattr(redis._calls, "_asking", None)
        if asking and asking._looking:
            await asking._looking  # no reply but the command's own is to be lost
        proxy.replies_to_lose = 1
        with pytest.raises(StoreUnavailable) as reported:
            await redis.execute("INCR", key)
        assert reported.value.retry_after == 1
    assert await redis.execute("GET", key) == b"20"


async def test_a_lost_reply_is_reported_and_the_command_not_sent_again(valkey_url: str) -> None:
    async with running_proxy(valkey_url) as (proxy, url):
        redis = Redis(url)
        await _lose_replies(redis, proxy)
        await redis.close()


async def test_a_lost_reply_of_a_cluster_is_reported_and_the_command_not_sent_again(tmp_path: Path) -> None:
    port = free_port()
    async with running_cluster(tmp_path, primaries=1, announced=port) as cluster:
        async with running_proxy(cluster, port=port) as (proxy, _):
            redis = Redis(cluster)
            await _lose_replies(redis, proxy)
            await redis.close()


async def test_no_more_connections_than_allowed_are_open(valkey_url: str) -> None:
    async with running_proxy(valkey_url) as (proxy, url):
        redis = Redis(url, connections=5, timeout=PATIENCE_S)
        await asyncio.gather(*(redis.execute("GET", "x") for _ in range(300)))
        assert proxy.connections == 5
        await redis.close()


async def test_a_silent_server_costs_one_timeout() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        redis = Redis(f"redis://127.0.0.1:{silent.getsockname()[1]}", connections=2, timeout=0.3)
        began = time.monotonic()
        replies = await asyncio.gather(*(redis.execute("INCR", "x") for _ in range(20)), return_exceptions=True)
        assert time.monotonic() - began < 2.0  # ten times two connections, were it one after the other: 3 s
        assert all(isinstance(reply, StoreUnavailable) for reply in replies)
        await redis.close()


async def test_a_server_that_went_away_is_unavailable_and_works_when_it_is_back(tmp_path: Path) -> None:
    async with restartable_valkey(tmp_path) as server:
        await server.start()
        redis = Redis(server.url)
        await asyncio.gather(*(redis.execute("INCR", "counter") for _ in range(50)))
        await server.stop()
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as unavailable:
                await redis.execute("GET", "counter")
            assert unavailable.value.retry_after == 1
            assert server.url.rpartition(":")[2] not in unavailable.value.message
            with pytest.raises(StoreUnavailable):
                await redis.check()
        await server.start()
        assert await redis.execute("GET", "counter") == b"50"
        assert await asyncio.gather(*(redis.execute("GET", "counter") for _ in range(50))) == [b"50"] * 50
        await redis.check()
        await redis.close()


async def test_a_restart_between_two_calls_is_not_noticed(tmp_path: Path) -> None:
    async with restartable_valkey(tmp_path) as server:
        await server.start()
        redis = Redis(server.url, connections=4)
        await asyncio.gather(*(redis.execute("INCR", "counter") for _ in range(8)))
        await server.stop()
        await server.start()
        assert await asyncio.gather(*(redis.execute("GET", "counter") for _ in range(8))) == [b"8"] * 8
        await redis.close()


async def test_a_full_store_is_unavailable_for_writes_and_still_ready(tmp_path: Path) -> None:
    async with running_valkey(tmp_path, extra=("--maxmemory", "6mb")) as url:
        redis = Redis(url)
        await redis.check()
        with pytest.raises(StoreUnavailable):
            for i in range(1000):
                await redis.execute("SET", f"key{i}", b"x" * 10_000)
        await redis.check()
        await redis.close()


async def test_a_cluster_that_lost_its_nodes_is_unavailable(tmp_path: Path) -> None:
    redis = Redis(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable):
        await redis.execute("GET", "x")
    with pytest.raises(StoreUnavailable):
        await redis.check()
    await redis.close()


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:{}/main", "redis+sentinel://127.0.0.1:{},127.0.0.1:{}/x"])
async def test_sentinels_that_do_not_answer_are_an_unavailable_store(url: str) -> None:
    redis = Redis(url.replace("{}", str(free_port())))
    with pytest.raises(StoreUnavailable):
        await redis.execute("GET", "x")
    await redis.close()


async def test_a_service_that_no_sentinel_knows_is_an_unavailable_store(sentinel_url: str) -> None:
    redis = Redis(sentinel_url.replace("/main", "/other"))
    with pytest.raises(StoreUnavailable):
        await redis.execute("GET", "x")
    await redis.close()


async def test_a_primary_that_becomes_a_replica_is_left_for_its_successor(tmp_path: Path) -> None:
    async with running_sentinel(tmp_path) as url:
        redis = Redis(url)
        for number in range(20):
            assert await redis.execute("RPUSH", "list", number) == number + 1
        before = await _port(redis)
        sentinel = Client.from_url(url.replace("+sentinel", "").removesuffix("/main"), protocol=2)
        began = time.monotonic()
        while not await _begun(sentinel) or await _port(redis) == before:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.05)
        assert await redis.execute("RPUSH", "list", "x") == 21
        await sentinel.aclose(close_connection_pool=True)
        await redis.close()


async def _begun(sentinel: Client) -> bool:
    """Whether a failover has begun: it cannot before the Sentinel has looked at the replica."""
    try:
        await sentinel.execute_command("SENTINEL FAILOVER", "main")
    except ResponseError as error:
        return not str(error).startswith("NOGOODSLAVE")
    return True


async def _port(redis: Redis) -> int:
    """Of the server that can be written now."""
    try:
        await redis.execute("SET", "written", "x")
        info = await redis.execute("INFO", "server")
    except StoreUnavailable:
        return -1
    return int(info.partition(b"tcp_port:")[2].split()[0])


async def test_slots_that_move_are_followed(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, primaries=2) as url, AsyncExitStack() as stack:
        redis = Redis(url)
        ports = [int(place.rpartition(":")[2]) for place in url.split(",")]
        one, other = [await stack.enter_async_context(Client(port=port, protocol=2)) for port in ports]
        ids = [(await node.execute_command("CLUSTER MYID")).decode() for node in (one, other)]
        slot = key_slot(b"{a}")
        source, target = (one, other) if slot < 8192 else (other, one)
        source_id, target_id = ids if slot < 8192 else ids[::-1]
        await redis.execute("SET", "{a}:there", "1")
        await target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
        await source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
        assert await redis.execute("INCR", "{a}:new") == 1  # ASK
        assert await redis.pipeline([("INCR", "{a}:new"), ("GET", "{a}:there")]) == [2, b"1"]
        host, port = "127.0.0.1", ports[0 if target is one else 1]
        await source.execute_command("MIGRATE", host, port, "{a}:there", 0, 1000)
        for node in (target, source):
            await node.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)
        assert await redis.pipeline([("INCR", "{a}:new"), ("GET", "{a}:there")]) == [3, b"1"]  # MOVED
        await redis.close()


async def test_a_write_that_is_to_be_kept_waits_in_the_same_round_trip(sentinel_url: str, valkey_url: str) -> None:
    kept, alone = Redis(sentinel_url, replicas=1), Redis(valkey_url, replicas=1, timeout=0.5)
    await alone.check()
    assert await kept.execute("SET", unique(), "x", kept=True) == b"OK"
    with pytest.raises(StoreUnavailable):
        await alone.execute("SET", unique(), "x", kept=True)
    assert await alone.execute("SET", unique(), "x") == b"OK"
    with pytest.raises(SessionNotFound):  # it refused, and so wrote nothing that would have to be kept
        await alone.call("session_delete", (f"myriad:{{{unique()}}}:session",) * 6, "user")
    async with running_proxy(valkey_url) as (proxy, url):
        waiting = Redis(url, disk=True)
        await waiting.execute("GET", "x")
        before = proxy.round_trips
        await waiting.execute("SET", unique(), "x", kept=True)
        assert proxy.round_trips - before == 1
        await waiting.close()
    await kept.close()
    await alone.close()


def test_a_function_that_writes_is_kept_unless_it_is_named() -> None:
    library = read_library()
    kept = {name for name, _ in library.functions if library.promises(library.command(name, ()))}
    assert {name for name, _ in library.functions} >= LOSABLE
    assert {"turn_begin", "turn_resume", "turn_end", "run_append", "queue_put", "tool_finish"} <= kept
    assert not {"session_get", "run_read", "agent_get", *LOSABLE} & kept
    assert not library.promises(("SET", "x", "y"))
