"""A second Envoy before the same stack, as the first but without two of its guards: what the controls call through."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, sessions_pb2
from tests.faults.rig import Rig
from tests.support.client import face
from tests.support.ports import free_port
from tests.support.waiting import until


@asynccontextmanager
async def running_bare_envoy(rig: Rig, work: Path) -> AsyncIterator[Any]:
    """A stub of the orchestrator behind an Envoy that tries nothing again, and has Envoy's own panic threshold."""
    command, port = _command(rig.pid("envoy"), work)
    with (work / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, face(rig.stack) as user:
            stub: Any = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)

            async def up() -> bool:
                try:
                    await stub.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=user.metadata, timeout=1)
                except grpc.aio.AioRpcError:
                    return False
                return True

            await until(up, 20)
            yield stub
    finally:
        process.terminate()
        await process.wait()


def _command(pid: int, work: Path) -> tuple[list[str], int]:
    """How to start it, and where it will listen."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    config = command.index("-c") + 1
    document = yaml.load(Path(command[config]).read_text(), Loader=yaml.CSafeLoader)
    _without_retries(document)
    for cluster in document["static_resources"]["clusters"]:
        if "common_lb_config" in cluster:
            cluster["common_lb_config"]["healthy_panic_threshold"] = {"value": 50}
    port = free_port()
    for listener in document["static_resources"]["listeners"]:
        listener["address"]["socket_address"]["port_value"] = port
    document["admin"]["address"]["socket_address"]["port_value"] = free_port()
    command[config] = str(work / "envoy.yaml")
    Path(command[config]).write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))
    return command, port


def _without_retries(document: Any) -> None:
    routes = [
        route
        for listener in document["static_resources"]["listeners"]
        for chain in listener["filter_chains"]
        for each in chain["filters"]
        for host in each["typed_config"]["route_config"]["virtual_hosts"]
        for route in host["routes"]
    ]
    assert any(route.get("route", {}).pop("retry_policy", None) for route in routes)
    for route in routes:
        route.get("route", {}).pop("retry_policy", None)
