"""What a turn calls stands still, is cut off, or dies: the turn ends in time, says so, and the next one is whole."""

import asyncio
import contextlib
import math
import os
import signal
from pathlib import Path

import grpc
import pytest
from pymilvus import AsyncMilvusClient, MilvusException

from myriad.common.v1 import agent_pb2
from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.app import Kit
from services.kit.errors import ModelUnavailable, ResourceExhausted, Unavailable
from services.kit.status import from_proto
from services.kit.telemetry import open_telemetry
from services.kit.triton import Triton
from services.orchestrator.adapters.triton import TritonModel
from services.orchestrator.domain.agent import Message, Role
from tests.faults.rig import TOOL_TIMEOUT_S, calm, desk_turn, only, recovery, whole
from tests.support import http_server
from tests.support.client import kinds, sim
from tests.support.load import steady
from tests.support.proxy import running_proxy
from tests.support.triton import ModelError, collect, running_triton
from tests.support.waiting import until

LATE_S = 0.1
NOTED_S = 0.05
"""An event is logged so much after it happened, at most."""

BACK_S = 5.0
"""After a model is back: its circuit rests for a second, and a channel waits up to one between attempts."""

MARGIN_S = 1.0
"""The orchestrator waits so much longer for toolexec than the tool may take."""

RETRIEVAL_S = 3.0


def took(events, first, last):
    """Seconds between two events of a log."""
    at = {event.WhichOneof("event"): event.time.ToNanoseconds() / 1e9 for event in events}
    return at[last] - at[first]


async def whole_within(user, seconds):
    """Returns once a turn is whole; how long that took."""

    async def again():
        return whole(await desk_turn(user))

    return await until(again, seconds)


async def test_control_without_a_fault_a_turn_is_whole(user):
    assert whole(await desk_turn(user))


async def held_by_a_line_that_stands_still(port, seconds):
    """Whether such a line to toolexec holds a caller who has no deadline longer than this."""
    async with running_proxy(f"tcp://127.0.0.1:{port}") as (proxy, url):
        proxy.asking.stall()
        async with grpc.aio.insecure_channel(url.rpartition("/")[2]) as channel:
            stub = toolexec_pb2_grpc.ToolExecServiceStub(channel)
            request = toolexec_pb2.ListToolsRequest(agent=agent_pb2.AgentRef(name="desk"))
            try:
                await asyncio.wait_for(stub.ListTools(request), seconds)
            except TimeoutError:
                return True
            return False


async def test_a_line_to_toolexec_that_holds_what_is_sent_costs_its_deadline_and_heals(rig, user):
    line = rig.links["orchestrator", "toolexec"]
    line.asking.stall()
    within = TOOL_TIMEOUT_S + MARGIN_S + LATE_S
    held, *turns = await asyncio.gather(
        held_by_a_line_that_stands_still(line.port, within), *(desk_turn(user) for _ in range(5))
    )
    assert held  # the control
    for events in turns:
        assert kinds(events)[-1] == "completed"
        assert only(events, "degraded").component == "toolexec"
        assert only(events, "tool_finished").reason in {"DEADLINE_EXCEEDED", "SERVICE_UNAVAILABLE"}
        assert took(events, "tool_started", "tool_finished") < within + NOTED_S
    line.asking.resume()
    assert await whole_within(user, 5) < 5


async def held_by_a_silent_milvus():
    """Whether it holds a caller who has no deadline longer than the step's."""
    async with running_proxy("") as (proxy, url):
        proxy.stall()
        client = AsyncMilvusClient(url.replace("tcp:", "http:"))
        with contextlib.suppress(MilvusException):
            try:
                await asyncio.wait_for(client.list_collections(), RETRIEVAL_S + LATE_S)
            except TimeoutError:
                return True
            finally:
                await client.close()
        return False


async def test_a_silent_milvus_is_a_degraded_answer_within_the_steps_deadline(rig, user):
    line = rig.links["retrieval", "milvus"]
    line.stall()
    events, held = await asyncio.gather(desk_turn(user), held_by_a_silent_milvus())
    assert held  # the control
    assert kinds(events)[-1] == "completed"
    assert only(events, "degraded").component == "retrieval"
    assert took(events, "understood", "degraded") < RETRIEVAL_S + LATE_S + NOTED_S
    line.resume()
    assert await whole_within(user, 5) < 5


@pytest.mark.parametrize(
    ("misbehaves", "reason", "within"),
    [
        (http_server.silent, "TOOL_TIMEOUT", TOOL_TIMEOUT_S),
        (http_server.dripping, "TOOL_TIMEOUT", TOOL_TIMEOUT_S),
        (http_server.endless, "TOOL_RESPONSE_TOO_LARGE", TOOL_TIMEOUT_S),
        (http_server.broken_off, "TOOL_UNAVAILABLE", TOOL_TIMEOUT_S),
    ],
    ids=["silent", "dripping", "endless", "broken-off"],
)
async def test_a_shop_that_misbehaves_is_cut_at_the_tools_own_deadline(rig, user, misbehaves, reason, within):
    well = rig.shop.answers["/items/lamp"]
    rig.shop.answers["/items/lamp"] = misbehaves
    try:
        events = await desk_turn(user)
    finally:
        rig.shop.answers["/items/lamp"] = well
    assert kinds(events)[-1] == "completed"
    assert "degraded" not in kinds(events)
    assert only(events, "tool_finished").reason == reason
    assert took(events, "tool_started", "tool_finished") < within + LATE_S + NOTED_S
    await rig.shop.until_idle()
    assert await whole_within(user, 5) < 5


def stubs(pids, model):
    """Those of these processes that run a model's Python."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"triton_python_backend_stub" in command.split(b"\0")[0] and f"/{model}/".encode() in command:
                yield pid


def grandchildren():
    """Processes of those that this one has started."""
    parent = {}
    for each in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent[int(each.parent.name)] = int(each.read_text().rpartition(")")[2].split()[1])
    return [pid for pid, its in parent.items() if parent.get(its) == os.getpid()]


@pytest.mark.chaos
async def test_a_model_without_its_process_is_unavailable_to_us_and_to_others_an_error_of_its_own(tmp_path):
    kit = Kit(open_telemetry("test", "", 0.0), None)
    said = sim(tokens=2)
    async with running_triton(tmp_path, ["sim_llm"]) as address, grpc.aio.insecure_channel(address) as bare:
        model = TritonModel(Triton(kit.network.client("triton", address)))

        async def ask():
            return [chunk async for chunk in model.chat("sim_llm", [Message(Role.USER, said)], (), 100, 0.0)]

        assert await ask()
        (pid,) = stubs(grandchildren(), "sim_llm")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ModelError, match="Stub process"):  # the control
            await collect(bare, "sim_llm", {"messages": [{"role": "user", "content": said}]})
        for _ in range(10):
            with pytest.raises(ModelUnavailable) as raised:
                await ask()
            assert raised.value.retry_after
    await kit.network.close()


@pytest.mark.parametrize("within", [math.inf, pytest.param(5.0, marks=pytest.mark.chaos)])
async def test_a_models_process_that_dies_is_never_an_internal_error_and_comes_back(rig, user, within):
    async def one(_number):
        session = await user.session("player")
        events = await user.turn(session, sim(tokens=5, delay_ms=20))
        if kinds(events)[-1] == "failed":
            raise from_proto(events[-1].failed.error)

    (pid,) = stubs([each.pid for each in rig.stack.state.processes()], "sim_llm")
    restarts = rig.part("triton").restarts
    async with steady(10, one) as load:
        await asyncio.sleep(1)
        killed = load.now
        os.kill(pid, signal.SIGKILL)
        await rig.ready_again("triton", restarts)  # how soon is the machine's affair, so long as others use it
        back = load.now
        await calm(load, back, BACK_S)
    assert load.share_ok(0, killed - 0.5) == 1.0, load.failures()
    wrong = [outcome for outcome in load.outcomes if outcome.error is not None]
    assert wrong, load.failures()
    for outcome in wrong:
        assert isinstance(outcome.error, Unavailable | ResourceExhausted), f"{outcome} {load.tenths()}"
        assert outcome.error.retry_after, f"{outcome} {load.tenths()}"
    assert recovery(load, back) <= BACK_S, load.failures()
    assert recovery(load, killed) <= within, load.failures()
