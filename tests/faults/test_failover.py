"""The store fails over: its primary is killed, or cut off with clients of its own. What was promised is kept.

A trio under Sentinels and a cluster of three primaries, each server on a machine of its own, which is a network
namespace. Writers write all the time: those whose writes wait for a replica, and as a control one whose do not.
"""

import asyncio
import time

import pytest
from redis.crc import key_slot

from myriad.orchestrator.v1 import run_pb2
from services.kit.errors import SessionNotFound
from services.kit.functions import read_library
from services.kit.redis import Redis
from services.kit.redis_cluster import ClusterConnections
from tests.faults.orders import Customers
from tests.faults.served import WORDS, Served
from tests.support.client import kinds
from tests.support.events import counted
from tests.support.fleets import LAG_S, NODE_TIMEOUT_MS, Cluster, Trio, eventually, running
from tests.support.netns import NoNamespace
from tests.support.network import machines
from tests.support.showing import not_shown
from tests.support.waiting import until
from tests.support.writers import SLOTS, Writer

AGAIN_S = 5.0
"""After a failure the majority's side can be written again within this time."""

BACK_S = 5.0
"""After the line is whole again, clients that were cut off write again within this time."""

CLIENTS = 8
"""So many order at once, half of them as runs of the queue."""

DELAY_MS = 50
"""Between two words of an answer: most orders are under way when a primary is harmed."""

ENDED_S = 20.0
WARM_S = 0.5
NOTICED_S = 2.0
"""A server looks each second whether it is cut off, and counts in whole seconds."""

chaos = pytest.mark.chaos


@pytest.fixture(scope="module")
def made():
    try:
        with machines(4) as found:
            yield found
    except NoNamespace as error:
        not_shown(f"failover is not shown: {error}")


@pytest.fixture(scope="module")
def running_trio(made, tmp_path_factory):
    with running(Trio(made, tmp_path_factory.mktemp("trio"))) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def running_cluster(made, tmp_path_factory):
    with running(Cluster(made, tmp_path_factory.mktemp("cluster"))) as fleet:
        yield fleet


@pytest.fixture
def trio(running_trio):
    """Whole at first."""
    running_trio.client.run(running_trio.whole)
    return running_trio


@pytest.fixture
def cluster(running_cluster):
    """Whole at first."""
    running_cluster.client.run(running_cluster.whole)
    return running_cluster


@pytest.fixture
def writing():
    """Begins to write: (fleet, machine, replicas, slots). All have stopped in the end."""
    writers = []

    def begin(fleet, machine, replicas, slots=range(SLOTS)):
        name = f"w{time.monotonic_ns()}-{len(writers)}"
        writers.append(Writer(fleet.url, name, replicas=replicas, slots=slots))
        return writers[-1].start(machine)

    yield begin
    for writer in writers:
        writer.stop()


def lost(fleet, writer):
    """How many acknowledged writes are gone."""

    async def count():
        redis = Redis(fleet.url)
        try:
            return await writer.lost(redis)
        finally:
            await redis.close()

    writer.stop()
    return fleet.client.run(count)


def written_again(writer, since, within):
    """Waits until all that was written before can be written again. How long that took since then."""
    while writer.gap(since) == float("inf") and time.monotonic() - since < within + 1:
        time.sleep(0.05)
    return writer.gap(since)


def cut_off_and_failed_over(fleet, machine, writing, refused_after_s):
    """Cuts a machine with a primary and clients off the others, and puts it back."""
    lost_to_them = fleet.slots_on(machine)
    majority, minority = writing(fleet, fleet.client, 1), writing(fleet, machine, 1, lost_to_them)
    control = writing(fleet, machine, 0, lost_to_them)
    time.sleep(WARM_S)
    machine.cut()
    cut = time.monotonic()
    try:
        assert written_again(majority, cut, AGAIN_S) <= AGAIN_S, majority.refused[-3:]
        time.sleep(max(0.0, cut + refused_after_s + WARM_S - time.monotonic()))
    finally:
        machine.heal()
    healed = time.monotonic()
    assert control.between(cut + 0.1, healed), "the control wrote nothing while it was cut off"
    assert control.between(cut + refused_after_s, healed) == [], "the old side still takes writes"
    assert minority.between(cut + 0.1, healed) == [], "what no replica had was acknowledged"
    assert written_again(minority, healed, BACK_S) <= BACK_S, minority.refused[-3:]
    assert (lost(fleet, majority), lost(fleet, minority)) == (0, 0)
    assert lost(fleet, control) > 0, "the control lost nothing: the fault was none"


def test_a_primary_that_lacks_our_functions_is_given_them(trio):
    async def flush_and_call():
        primary = await trio.primary()
        redis = Redis(trio.url, replicas=1)
        await redis.check()
        await primary.ask("FUNCTION FLUSH")
        with pytest.raises(SessionNotFound):
            await redis.call("session_get", ("myriad:{none}:session",), "user")
        await redis.close()

    trio.client.run(flush_and_call)


@chaos
def test_who_takes_over_in_a_cluster_has_our_functions_and_is_given_them_if_not(cluster):
    gone = cluster.servers[0]
    slots = cluster.slots_on(gone.machine)
    tag = next(tag for tag in map(str, range(SLOTS)) if key_slot(tag.encode()) in slots)

    async def flush_and_call():
        redis = Redis(cluster.url, replicas=1)
        await redis.check()
        await asyncio.to_thread(gone.kill)
        await eventually(cluster.heir)
        heir = await cluster.heir()
        assert await heir.ask("FUNCTION LIST", "LIBRARYNAME", read_library().name)
        await heir.ask("FUNCTION FLUSH")
        with pytest.raises(SessionNotFound):
            await redis.call("session_get", (f"myriad:{{{tag}}}:session",), "user")
        await redis.close()

    cluster.client.run(flush_and_call)


@pytest.mark.parametrize("replicas", [1, pytest.param(0, marks=chaos)])
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=chaos)])
def test_runs_go_on_and_no_kept_write_is_lost_while_the_primary_dies(trio, writing, times, replicas):
    async def scenario():
        async with Served(trio.url, replicas) as served:
            texts = ("long", "long", "long", "ask")
            running = [asyncio.create_task(served.turn(await served.session(), text)) for text in texts]
            await asyncio.sleep(WARM_S)
            primary = await trio.primary()
            await asyncio.to_thread(primary.kill)
            killed = time.monotonic()
            recovered = await served.recovered(killed)
            async with asyncio.timeout(20):
                whole = await asyncio.gather(*running)
            again = [
                [e async for e in served.stub.WatchRun(run_pb2.WatchRunRequest(run_id=w[0].run_id))] for w in whole
            ]
            return killed, recovered, whole, again

    for _ in range(times):
        trio.client.run(trio.whole)
        writer = writing(trio, trio.client, 1)
        killed, recovered, whole, again = trio.client.run(scenario)
        assert recovered <= AGAIN_S
        for events in whole:
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            assert kinds(events)[-1] == "completed", events[-1]
        assert [counted(events) for events in whole] == [*["".join(WORDS)] * 3, "Done."]
        assert kinds(whole[-1]).count("approval_required") == 1
        assert again == whole
        assert writer.gap(killed) <= AGAIN_S, writer.refused[-3:]
        assert len(writer.between(0, killed)) > 50
        assert lost(trio, writer) == 0


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=chaos)])
def test_a_primary_cut_off_from_its_sentinels_is_replaced_and_refuses(trio, writing, times):
    for _ in range(times):
        trio.client.run(trio.whole)
        machine = trio.client.run(trio.primary).machine
        cut_off_and_failed_over(trio, machine, writing, LAG_S + NOTICED_S)


@chaos
def test_killed_primaries_of_a_cluster_are_replaced_and_no_kept_write_is_lost(cluster, writing):
    for server in cluster.servers[:3] * 4:
        cluster.client.run(cluster.whole)
        writer = writing(cluster, cluster.client, 1)
        time.sleep(WARM_S)
        server.kill()
        killed = time.monotonic()
        assert written_again(writer, killed, AGAIN_S) <= AGAIN_S, writer.refused[-3:]
        assert lost(cluster, writer) == 0


def died(server):
    """A primary that is killed."""
    server.kill()


def cut_off(server):
    """A primary with all that is on its machine."""
    server.machine.cut()


async def orders_while(fleet, server, harm):
    """Orders, as turns and as runs of the queue, all the time while a primary is harmed: all end as if it were not.

    Returns when it was harmed, and how long after that turns succeeded whose session was there.
    """
    slots = fleet.slots_on(server.machine)
    async with Served(fleet.url, 1) as served:
        customers, orders, enough = Customers(served, served.client, served.memory), [], asyncio.Event()

        async def customer(begin):
            while not enough.is_set():
                orders.append(order := await begin(DELAY_MS))
                await order.end()

        kinds_of_order = (customers.order, customers.create)
        working = [asyncio.create_task(customer(kinds_of_order[number % 2])) for number in range(CLIENTS)]
        await until(lambda: len(orders) > CLIENTS, ENDED_S)
        await asyncio.sleep(WARM_S)
        under_way = [order for order in orders if not order.task.done()]
        await asyncio.to_thread(harm, server)
        harmed = time.monotonic()
        recovered = await served.recovered(harmed, slots)
        enough.set()
        async with asyncio.timeout(ENDED_S):
            await asyncio.gather(*working)
        assert len(under_way) > CLIENTS / 2
        assert any(key_slot(order.keys.session.encode()) in slots for order in orders)
        for order in orders:
            await customers.check(order)
        return harmed, recovered


@chaos
@pytest.mark.parametrize("harm", [died, cut_off])
@pytest.mark.parametrize("times", [1, 6])
@pytest.mark.parametrize("kind", ["trio", "cluster"])
def test_orders_go_on_and_no_kept_write_is_lost_while_a_primary_is_away(request, writing, kind, harm, times):
    fleet = request.getfixturevalue(kind)
    for number in range(times):
        fleet.client.run(fleet.whole)
        server = fleet.servers[number % 3] if kind == "cluster" else fleet.client.run(fleet.primary)
        writer = writing(fleet, fleet.client, 1)
        control = writing(fleet, server.machine, 0, fleet.slots_on(server.machine))
        try:
            harmed, recovered = fleet.client.run(lambda server=server: orders_while(fleet, server, harm))
            assert recovered <= AGAIN_S
            assert writer.gap(harmed) <= AGAIN_S, writer.refused[-3:]
        finally:
            if harm is cut_off:
                server.machine.heal()
        assert lost(fleet, writer) == 0
        if harm is cut_off:
            assert lost(fleet, control) > 0, "the control lost nothing: the fault was none"


@chaos
def test_control_who_asks_the_nodes_but_once_does_not_find_who_took_over(cluster, monkeypatch):
    learn = ClusterConnections._learn

    def learn_once(self, owners):
        if not self._owners:
            learn(self, owners)

    async def killed():
        async with Served(cluster.url, 1) as served:
            await served.recovered(time.monotonic())
            await asyncio.to_thread(server.kill)
            return await served.recovered(time.monotonic(), cluster.slots_on(server.machine))

    monkeypatch.setattr(ClusterConnections, "_learn", learn_once)
    server = cluster.servers[0]
    assert cluster.client.run(killed) > AGAIN_S


@chaos
@pytest.mark.parametrize("times", [1, 10])
def test_a_primary_cut_off_from_its_cluster_is_replaced_and_refuses(cluster, writing, times):
    for number in range(times):
        cluster.client.run(cluster.whole)
        machine = cluster.servers[number % 3].machine
        cut_off_and_failed_over(cluster, machine, writing, NODE_TIMEOUT_MS / 1000 + 1.0)
