"""What is secret is found in no sink: not in logs, spans, metrics, errors, keys, nor with those we call.

Every sink of the process in `house.py` is searched for every secret word, also encoded.
"""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator

import pytest

from services.kit.config import describe
from services.kit.redis_connections import open_connections
from services.retrieval.config import Config as RetrievalConfig
from tests.security.house import (
    CONTENT,
    NOBODYS,
    ROOT,
    House,
    canary,
    collect,
    found,
    go_wrong,
    live,
    running_house,
    through_envoy,
)
from tests.support.leaks import leaks

pytestmark = pytest.mark.timeout(180)
"""The first test waits for all that happens before."""


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """After all of it has happened."""
    async with running_house(tmp_path_factory.mktemp("house")) as made:
        await live(made)
        await go_wrong(made)
        await through_envoy(made)
        await collect(made)
        yield made


@pytest.mark.parametrize("name", NOBODYS)
async def test_a_credential_is_in_no_sink(house: House, name: str) -> None:
    assert [sink for sink, text in house.sinks.items() if found(house.words[name], text)] == []


@pytest.mark.parametrize("name", CONTENT)
async def test_what_is_said_is_in_no_log_span_metric_key_or_error(house: House, name: str) -> None:
    silent_sinks = ("log", "standard error", "access log", "Envoy's log", "spans", "metrics", "redis keys", "errors")
    assert [sink for sink in (*silent_sinks, "model's metadata") if found(house.words[name], house.sinks[sink])] == []


async def test_the_body_of_an_error_through_envoy_says_nothing_of_how_it_is_made(house: House) -> None:
    assert len(house.bodies) >= 6
    assert all(house.bodies)
    assert [leaks(body) for body in house.bodies if leaks(body)] == []


async def test_the_credential_of_a_tool_goes_to_its_endpoint_and_into_no_event(house: House) -> None:
    word = house.words["credential"]
    assert found(word, house.sinks["tool's requests"])
    assert not found(word, house.sinks["events"])


async def test_what_a_tool_is_sent_is_what_it_declared(house: House) -> None:
    """No token of the caller, of the mesh, no trace, no name of tenant or user."""
    sent = {name for request in house.crm.requests for name in request.headers}
    assert sent <= {"host", "accept", "accept-encoding", "user-agent", "idempotency-key"}
    assert "canaries" not in "".join(value for request in house.crm.requests for value in request.headers.values())


async def test_the_turns_came_to_all_that_they_were_to_come_to(house: House) -> None:
    """The control: what is looked for was there. Every word reached the place that is right for it."""
    kinds = [event.WhichOneof("event") for event in house.events]
    assert {"completed", "failed", "tool_finished", "understood", "retrieved"} <= {*kinds}
    assert kinds.count("failed") >= 5
    assert len(house.errors) >= 5
    assert house.sinks["spans"].count("trace_id") > 50
    assert len(house.sinks["log"].splitlines()) > 5
    assert "call failed" in house.sinks["log"]
    assert len(house.sinks["access log"].splitlines()) >= 8
    for name in ("prompt", "persona", "credential", "argument", "result", "document"):
        assert found(house.words[name], house.sinks["redis values"]), name
    for name in ("prompt", "argument", "result", "document"):
        assert found(house.words[name], house.sinks["events"]), name


@pytest.mark.parametrize("url", ["{}", "redis://:{}@h:port", "redis+cluster://u:{}@h", "http://{}@h:1"])
def test_a_url_that_cannot_be_used_is_not_told_where_the_start_fails(url: str) -> None:
    """It holds a password, and what is wrong with it may be anything."""
    word = canary("password")
    with pytest.raises(ValueError) as caught:
        open_connections(url.format(word), 1)
    assert not found(word, str(caught.value))


def test_the_user_of_a_url_is_not_shown_at_the_start() -> None:
    word = canary("password")
    shown = describe(RetrievalConfig(milvus_uri=f"http://root:{word}@127.0.0.1:1"))["milvus_uri"]
    assert shown == "http://***@127.0.0.1:1"


async def logged(program: str, word: str, level: str) -> str:
    """What a program says that logs as the services do."""
    begin = (
        "import logging, structlog, sys; from services.kit.telemetry import log_to_stdout; log_to_stdout(sys.argv[2])\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", begin + program, word, level),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode()


@pytest.mark.parametrize(
    "report", ["structlog.get_logger().error('broke', exc_info=error)", "logging.exception('broke')"]
)
async def test_an_exception_is_logged_with_its_place_and_without_what_it_says(report: str) -> None:
    """It may quote a user: `int` tells what is no number. At `debug` it is told, which is the control."""
    program = f"try:\n    int(sys.argv[1])\nexcept ValueError as error:\n    {report}"
    word = canary("exception")
    said = await logged(program, word, "info")
    assert "ValueError" in said
    assert "line 3" in said
    assert not found(word, said)
    assert found(word, await logged(program, word, "debug"))


async def test_a_line_that_does_hold_a_secret_is_found(house: House) -> None:
    """The control of the search: a log line written on purpose, as the services write theirs."""
    word = house.words["mesh_token"]
    assert found(word, await logged("structlog.get_logger().info('on purpose', token=sys.argv[1])", word, "info"))
    for each in (base64.b64encode(word.encode()).decode(), word.encode().hex(), word.upper()):
        assert found(word, f"x{each}y")
