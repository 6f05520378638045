"""toolexec on one machine, and its caller on another: each a program, as gRPC's threads are where a process began.

`serve <folder>` serves until it is told to stop; file `port` in the folder says where. `call <host:port>` calls it as
the orchestrator does, so many times a second, and prints each outcome on a line of JSON.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from myriad.common.v1 import agent_pb2
from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.app import Kit
from services.kit.call import Principal, work_as
from services.kit.errors import ServiceError
from services.kit.interceptors.identity import metadata_of
from services.kit.telemetry import open_telemetry
from services.orchestrator.adapters.toolexec import ToolExecClient
from services.orchestrator.domain.agent import ToolCall
from tests.support.toolexec import call_key
from tests.support.toolexec_service import a_stack
from tests.support.valkey import running_valkey

ANN = Principal("acme", "ann")
TOOL_S = 1.0
"""What the caller lets a tool take; it waits a second longer for toolexec."""

EVERY_S = 0.1
_LIFE_S = 600.0
_ARGUMENTS = '{"expression": "6*7"}'
_TOOL = {
    "name": "calculate",
    "description": "Calculates.",
    "side_effect": "SIDE_EFFECT_READ",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    "builtin": {"function": "calculator"},
}


async def _serve(work: Path) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with running_valkey(work / "valkey") as url, a_stack(url, [_TOOL], "http://127.0.0.1:1") as here:
        anywhere = replace(here, settings={**here.settings, "MYRIAD_HOST": "0.0.0.0"})
        async with anywhere.elsewhere(work) as (replica, process):
            await replica.ready()
            (work / "port.new").write_text(process.address.rpartition(":")[2])
            (work / "port.new").rename(work / "port")
            await ended.wait()


async def _call(address: str) -> None:
    work_as(ANN, name="test", timeout=_LIFE_S)
    kit = Kit(open_telemetry("test", "", 0.0), None)
    tools = ToolExecClient(kit.network.client("toolexec", address))
    agent: Any = agent_pb2.AgentRef(name="aura")
    under_way: set[asyncio.Task[None]] = set()
    async with grpc.aio.insecure_channel(address) as bare:
        under_way.add(asyncio.create_task(_without_a_deadline(bare)))
        number = 0
        while True:
            number += 1
            key = call_key("calculate", _ARGUMENTS, f"s1.{number}")
            call = tools.execute(
                agent, ToolCall("c1", "calculate", _ARGUMENTS), key.run_id, key.idempotency_key, TOOL_S
            )
            task = asyncio.create_task(_told("call", call))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(EVERY_S)


async def _without_a_deadline(bare: grpc.aio.Channel) -> None:
    """One call after the other, over a channel as gRPC makes it."""
    stub: Any = toolexec_pb2_grpc.ToolExecServiceStub(bare)
    request = toolexec_pb2.ListToolsRequest(agent=agent_pb2.AgentRef(name="aura"))
    while True:
        await _told("bare", stub.ListTools(request, metadata=metadata_of(ANN, None)))
        await asyncio.sleep(EVERY_S)


async def _told(kind: str, call: Any) -> None:
    began, code = time.monotonic(), "OK"
    try:
        await call
    except ServiceError as error:
        code = error.code.name
    except grpc.aio.AioRpcError as error:
        code = error.code().name
    print(json.dumps([kind, began, time.monotonic() - began, code]), flush=True)  # noqa: T201


def command(*words: str) -> Sequence[str]:
    """How to run this program."""
    return (sys.executable, "-m", __name__, *words)


if __name__ == "__main__":
    verb, where = sys.argv[1:]
    asyncio.run(_serve(Path(where)) if verb == "serve" else _call(where))
