"""Floods of HTTP/2 end their own connection only: other clients notice nothing, and Envoy's memory stays as it was."""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.edge.envoys import ROOT, Backend, Edge, make_descriptors, manager, running_edge, running_stub
from tests.integration.edge.floods import FLOODS, flood

GROWTH_BYTES = 50 * 1024 * 1024
TAKEN_S = 2.5
"""A connection that is still there so long after its flood got through with it."""

LONG_S = 60
BASELINE_S = 10
SLACK_S = 0.05
"""What a good call may wait longer: floods, client, stub and Envoy's one worker share the cores of one machine."""


def resident(edge: Edge) -> int:
    """Bytes of Envoy's memory."""
    (line,) = [each for each in Path(f"/proc/{edge.pid}/status").read_text().splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


async def calls(edge: Edge, until: asyncio.Event) -> list[tuple[int, float]]:
    """The status and the seconds of each call of a good client, one after another."""
    found = []
    while not until.is_set():
        began = time.monotonic()
        reply = await edge.http.get("/v1/runs/s.1")
        found.append((reply.status_code, time.monotonic() - began))
        await asyncio.sleep(0.01)
    return found


@pytest_asyncio.fixture(scope="module")
async def own_stub() -> AsyncIterator[Backend]:
    """What is behind: calls of a flood that come late must not come into another test."""
    await make_descriptors()
    async with running_stub() as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def own_edge(own_stub: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """Envoy as `make up` starts it."""
    async with running_edge(tmp_path_factory.mktemp("flooded"), own_stub, {}) as running:
        yield running


async def test_each_flood_ends_its_connection_and_no_other(own_edge: Edge) -> None:
    before, done = resident(own_edge), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        client = group.create_task(calls(own_edge, done))
        ends = await asyncio.gather(*(flood(own_edge.address, kind) for kind in FLOODS.values()))
        done.set()
    answers = client.result()
    assert {name: end.closed for name, end in zip(FLOODS, ends, strict=True)} == dict.fromkeys(FLOODS, True)
    assert {code for code, _ in answers} == {200}
    assert len(answers) > 5
    assert resident(own_edge) - before < GROWTH_BYTES


def take_the_limits_away(document: Any) -> None:
    """Each line is one guard. What ends a flood of CONTINUATION is in the HTTP/2 library, and always on."""
    endless = 2**32 - 1
    (layer,) = document["layered_runtime"]["layers"]
    layer["static_layer"]["overload.premature_reset_total_stream_count"] = endless
    http2 = manager(document)["http2_protocol_options"]
    http2["max_outbound_control_frames"] = endless
    http2["max_outbound_frames"] = endless
    http2["max_consecutive_inbound_frames_with_empty_payload"] = endless


async def test_without_the_limits_a_connection_gets_through_with_its_flood(own_stub: Backend, tmp_path: Path) -> None:
    async with running_edge(tmp_path, own_stub, {}, change=take_the_limits_away) as edge:
        ends = await asyncio.gather(*(flood(edge.address, kind, TAKEN_S) for kind in FLOODS.values()))
    assert {name: end.closed for name, end in zip(FLOODS, ends, strict=True)} == {
        name: name == "continuation" for name in FLOODS
    }


def p99(answers: list[tuple[int, float]]) -> float:
    """The 99th percentile of the seconds."""
    return statistics.quantiles([seconds for _, seconds in answers], n=100)[98]


async def for_a_while(edge: Edge, seconds: float) -> list[tuple[int, float]]:
    """The calls of a good client in this time."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, done.set)
    return await calls(edge, done)


@pytest.mark.chaos
async def test_a_minute_of_floods_is_hardly_noticed(own_edge: Edge) -> None:
    quiet, before = await for_a_while(own_edge, BASELINE_S), resident(own_edge)
    # Another process, which yields to this one: what is measured is Envoy, not its client.
    command = ("nice", "-n", "10", sys.executable, "-m", "tests.integration.edge.floods", own_edge.address)
    floods = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        flooded = await for_a_while(own_edge, LONG_S)
        assert floods.returncode is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            floods.terminate()
        await floods.wait()
    assert {code for code, _ in quiet + flooded} == {200}
    assert p99(flooded) <= max(2 * p99(quiet), p99(quiet) + SLACK_S), (p99(quiet), p99(flooded))
    assert resident(own_edge) - before < GROWTH_BYTES
