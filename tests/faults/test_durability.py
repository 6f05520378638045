"""docs/durability.md, row by row: what of each kind of data is there after a kill -9, a power cut, a full disk.

A power cut is played: strace says what the server had synced, and all that it had not is cut off its log.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis as Client

from services.kit.errors import Code, StoreFull, StoreUnavailable
from services.kit.redis import Redis
from services.memory.domain import Ending
from tests.support.kinds import KINDS, Writing, missing
from tests.support.ports import free_port
from tests.support.showing import not_shown
from tests.support.syncs import NoStrace, cut_power, read, watched
from tests.support.valkey import start_valkey, stop
from tests.support.waiting import until

chaos = pytest.mark.chaos
ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "durability.md"
ROWS = {
    "session, and its place in its user's list": ("session", "place in the list"),
    "history, and how a run ended": ("history",),
    "run that was accepted, waiting or at work": ("run", "run in the line"),
    "log entry: an event that was shown": ("log entry",),
    "checkpoint": ("checkpoint",),
    "lease, and its fencing token": ("lease",),
    "who works in which session": ("owner",),
    "queue entry": ("queue entry",),
    "result of a tool call, by its key": ("tool result",),
    "approval, asked for or answered": ("approval", "answer"),
    "budget: what was reserved and spent": ("reservation", "spending"),
    "dead letter": ("dead letter",),
    "domain event that was told": ("event",),
    "agent and its revisions": ("agent",),
}
"""Rows of the table to kinds."""

NO_KINDS = {"what the model has said since its last checkpoint", "that a worker claimed it", "document in Milvus"}
"""Rows of what may be lost at any time, and of what is elsewhere."""

EVERYSEC, ALWAYS = ("--appendfsync", "everysec"), ("--appendfsync", "always")
MAY_DEBUG = ("--enable-debug-command", "local")
SLOW = "fdatasync:delay_enter={}"
"""Microseconds that the disk takes."""


class Store:
    """A server that is killed, and comes again with its data."""

    def __init__(self, work, *extra):
        self.work, self.port, self.extra = work, free_port(), extra
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None

    async def start(self):
        self.process = await start_valkey(self.work, self.port, self.extra)
        await until(self._has_loaded, 10)

    async def kill(self):
        if self.process is not None:
            await stop(self.process)

    async def _has_loaded(self):
        async with Client.from_url(self.url) as client:
            return (await client.info("persistence"))["loading"] == 0

    @property
    def log(self):
        (found,) = (self.work / "appendonlydir").glob("*.incr.aof")
        return found


@asynccontextmanager
async def running_store(work, *extra):
    store = Store(work, *extra)
    try:
        await store.start()
        yield store
    finally:
        await store.kill()


@asynccontextmanager
async def writing(url, **options):
    redis = Redis(url, **options)
    made = Writing(redis)
    try:
        yield made
    finally:
        await made.queue.close()
        await redis.close()


async def write_until_it_dies(made, written, kinds=KINDS):
    """Writes all kinds over and over; `written` gains what was acknowledged."""

    async def write(kind):
        while True:
            name = uuid.uuid4().hex
            try:
                await KINDS[kind].write(made, name)
            except StoreUnavailable:
                return
            written.append((kind, name))
            await asyncio.sleep(0.005)

    await asyncio.gather(*map(write, kinds))


def test_each_row_of_the_table_is_a_kind_that_is_tried():
    _, _, table = TABLE.read_text().partition("| kind of data |")
    rows = [line.split("|")[1].strip() for line in table.partition("\n\n")[0].splitlines()[2:]]
    assert rows
    assert set(rows) == set(ROWS) | NO_KINDS
    assert sorted(kind for kinds in ROWS.values() for kind in kinds) == sorted(KINDS)


async def killed(url, when):
    """What a process of ours has said is there, that was killed once it had said so of every kind."""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", Writing.__module__, url, when, cwd=ROOT, stdout=subprocess.PIPE
    )
    said = []
    while {kind for kind, _ in said} != set(KINDS):
        said.append(told(await asyncio.wait_for(writer.stdout.readline(), 20)))
    writer.kill()
    said += map(told, (await writer.stdout.read()).splitlines())
    await writer.wait()
    return said


def told(line):
    return tuple(line.decode().rstrip("\n").split("\t"))


async def test_no_kind_of_data_is_lost_when_a_process_of_ours_is_killed_right_after_it_was_told(tmp_path):
    """The control says that all is there before it writes."""
    async with running_store(tmp_path) as store, writing(store.url) as made:
        written, control = await asyncio.gather(killed(store.url, "acknowledged"), killed(store.url, "early"))
        assert await missing(made, written) == []
        assert await missing(made, control) == control


@pytest.fixture
def quick_disk(tmp_path):
    """A folder whose disk is never busy: the server then never puts a write off while a sync is under way."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=chaos)])
@pytest.mark.parametrize("fsync", [EVERYSEC, ALWAYS])
async def test_no_kind_of_data_is_lost_when_the_store_is_killed_right_after_it_acknowledged(quick_disk, fsync, rounds):
    written = []
    async with running_store(quick_disk, *fsync) as store, writing(store.url) as made:
        for round_ in range(rounds):
            dying = asyncio.create_task(write_until_it_dies(made, written))
            await asyncio.sleep(0.1 + 0.02 * (round_ % 5))
            await store.kill()
            await dying
            await store.start()
            assert await missing(made, written[-200:]) == []
        assert await missing(made, written) == []
    assert {kind for kind, _ in written} == set(KINDS)


@pytest.mark.parametrize(
    ("options", "fsync", "slow_us", "survives"),
    [
        ({}, EVERYSEC, 1_500_000, False),
        ({"disk": True}, EVERYSEC, 1_500_000, True),
        ({}, ALWAYS, 200_000, True),
    ],
    ids=["everysec", "everysec, waiting for the disk", "always"],
)
async def test_a_store_killed_while_its_disk_is_slow(tmp_path, options, fsync, slow_us, survives):
    """`everysec` puts writes off while a sync is under way, and replies all the same. The first case is the control."""
    written = []
    async with running_store(tmp_path, *fsync) as store, writing(store.url, timeout=10.0, **options) as made:
        await made.redis.check()
        try:
            async with watched(store.process.pid, tmp_path, inject=[SLOW.format(slow_us)]):
                dying = asyncio.create_task(write_until_it_dies(made, written, ("queue entry", "agent", "dead letter")))
                await asyncio.sleep(2.2)
                await store.kill()
                await dying
        except NoStrace as error:
            not_shown(f"durability is not shown: {error}")
        await store.start()
        lost = await missing(made, written)
    assert written
    assert (lost == []) is survives, f"{len(lost)} of {len(written)} lost"


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=[chaos, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize(("fsync", "survives"), [(EVERYSEC, False), (ALWAYS, True)], ids=["everysec", "always"])
async def test_what_the_disk_had_when_the_power_went(tmp_path, fsync, survives, rounds):
    """Under `always` no reply leaves before the disk has what it tells of; `everysec`, the control, loses a second.

    Each round goes on with what the one before left.
    """
    kept, gone = [], []
    async with running_store(tmp_path, *fsync, *MAY_DEBUG) as store, writing(store.url) as made:
        for round_ in range(rounds):
            await made.redis.check()
            written, seen = await until_the_power_goes(store, made, 1.5 - 0.1 * (round_ % 10), tmp_path)
            await store.start()
            lost = await missing(made, written)
            assert seen.replies > 100
            assert (seen.early == 0) is survives, f"{seen.early} of {seen.replies} replies came before the disk had it"
            gone += lost
            kept += set(written).difference(lost)
        assert await missing(made, kept) == []
    assert (gone == []) is survives, f"{len(gone)} of {len(gone) + len(kept)} lost"
    assert {kind for kind, _ in kept + gone} == set(KINDS)


async def until_the_power_goes(store, made, seconds, work):
    """Writes all kinds for so long, then cuts the power. What was acknowledged, and what strace saw."""
    written = []
    await made.redis.execute("DEBUG", "SET-ACTIVE-EXPIRE", 0)  # that is written, too, and nobody looks yet
    os.sync()
    before = store.log.stat().st_size
    try:
        async with watched(store.process.pid, work) as output:
            dying = asyncio.create_task(write_until_it_dies(made, written))
            await asyncio.sleep(seconds)
            await store.kill()
            await dying
    except NoStrace as error:
        not_shown(f"durability is not shown: {error}")
    seen = read(output)
    unseen = store.log.stat().st_size - before - seen.written
    assert 0 <= unseen <= seen.under_way
    cut_power(store.log, before, seen)
    return written, seen


async def test_a_log_whose_tail_is_cut_loads_without_the_last_write(tmp_path):
    async with running_store(tmp_path) as store, writing(store.url) as made:
        for number in range(20):
            await KINDS["agent"].write(made, str(number))
        await store.kill()
        os.truncate(store.log, store.log.stat().st_size - 3)
        await store.start()
        assert await missing(made, [("agent", str(number)) for number in range(20)]) == [("agent", "19")]
        await KINDS["agent"].write(made, "19")
        assert await missing(made, [("agent", "19")]) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        not_shown(f"no disk can be mounted here: {mounted.stderr}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_refuses_writes_answers_reads_and_is_well_when_there_is_room(small_disk):
    written = []
    ballast = small_disk / "ballast"
    async with running_store(small_disk) as store, writing(store.url) as made:

        async def write():
            name = uuid.uuid4().hex
            await KINDS["agent"].write(made, name)
            written.append(("agent", name))

        await write()
        fill(ballast)
        with pytest.raises(StoreFull) as full:
            for _ in range(1000):
                await write()
        assert (full.value.code, full.value.retry_after) == (Code.RESOURCE_EXHAUSTED, 1)
        assert await missing(made, written[:1]) == []
        await made.redis.check()
        ballast.unlink()

        async def writes():
            try:
                await write()
            except StoreFull:
                return False
            return True

        await until(writes, 2)
        assert store.process.returncode is None
        await store.kill()
        await store.start()
        assert await missing(made, written) == []


def fill(ballast):
    """Takes all the room there is."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


@asynccontextmanager
async def running_pair(work):
    """A primary and its replica."""
    async with running_store(work / "primary", "--repl-diskless-sync-delay", "0") as primary:
        follow = ("--replicaof", f"127.0.0.1 {primary.port}")
        async with running_store(work / "replica", *follow) as replica, Client.from_url(primary.url) as client:

            async def online():
                found = await client.info("replication")
                return found.get("slave0", {}).get("state") == "online" and found["slave0"]["offset"] > 0

            await until(online, 10)
            yield primary, replica


async def promoted(replica):
    """Makes a replica the primary."""
    async with Client.from_url(replica.url) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")


async def test_what_waited_for_a_replica_is_there_when_it_takes_over(tmp_path):
    written = []
    async with running_pair(tmp_path) as (primary, replica):
        async with writing(primary.url, replicas=1) as made:
            await made.redis.check()
            dying = asyncio.create_task(write_until_it_dies(made, written))
            await asyncio.sleep(0.3)
            await primary.kill()
            await dying
        await promoted(replica)
        async with writing(replica.url) as made:
            lost = await missing(made, written)
    assert {kind for kind, _ in written} == set(KINDS)
    assert lost == []


async def test_nothing_counts_as_done_while_no_replica_has_it(tmp_path):
    """The control, which waits for no replica, is told that all is done, and loses all of it."""
    async with running_pair(tmp_path) as (primary, replica):
        async with writing(primary.url, replicas=1, timeout=0.8) as made, writing(primary.url) as control:
            alice, turn = await made.begin("ended")
            await made.sessions.end(alice, "ended", Ending(1, turn.fencing_token, 1, [b"over"]))
            replica.process.send_signal(signal.SIGSTOP)
            try:
                done = await asyncio.gather(
                    *(kind.write(made, f"kept-{name}") for name, kind in KINDS.items()), return_exceptions=True
                )
                with pytest.raises(StoreUnavailable):  # a repeat writes nothing, and waits for what it repeats
                    await made.sessions.end(alice, "ended", Ending(1, turn.fencing_token, 1, [b"over"]))
                async with Client.from_url(primary.url) as client:  # else what is on its way would still arrive
                    await client.execute_command("CLIENT", "KILL", "TYPE", "replica")
                written = [(name, f"lost-{name}") for name in KINDS]
                for name, as_ in written:
                    await KINDS[name].write(control, as_)
                await primary.kill()
            finally:
                replica.process.send_signal(signal.SIGCONT)
        assert all(isinstance(error, StoreUnavailable) for error in done), done
        await promoted(replica)
        async with writing(replica.url) as made:
            lost = await missing(made, written)
    assert lost == written, "the control kept something: the fault was none"
