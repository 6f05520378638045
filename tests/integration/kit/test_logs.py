"""Logs: a line of JSON each, joined to its call, without a word of what users said and without secrets."""

import asyncio
import json

import grpc
import pytest

from myriad.common.v1 import common_pb2
from myriad.memory.v1 import memory_pb2_grpc, turn_pb2
from tests.support.process import running

TRACE_ID = "5e" * 16
METADATA = [("traceparent", f"00-{TRACE_ID}-{'cd' * 8}-00"), ("x-myriad-tenant", "acme"), ("x-myriad-user", "alice")]
SECRET_OF_USER = "my-cat-is-called-Ixchel"
PASSWORD = "correct-horse"
COMMIT = "/myriad.memory.v1.MemoryService/CommitTurn"


def commit(run_id):
    message = common_pb2.Message(role=common_pb2.ROLE_USER, content=SECRET_OF_USER)
    event = SECRET_OF_USER.encode()
    return turn_pb2.CommitTurnRequest(
        run_id=run_id, fencing_token=1, messages=[message], last_events=[event], first_sequence=1
    )


@pytest.fixture(scope="module")
async def log(tmp_path_factory):
    """What memory logged, without a store: at its start, of a call that failed, of one it refused, at its end."""
    work = tmp_path_factory.mktemp("logs")
    variables = {"MYRIAD_MEMORY_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:1"}
    async with running("services.memory", work, variables) as process:
        async with grpc.aio.insecure_channel(process.address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            stub = memory_pb2_grpc.MemoryServiceStub(channel)
            for run_id, code in (("s.1", "UNAVAILABLE"), (SECRET_OF_USER, "INVALID_ARGUMENT")):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.CommitTurn(commit(run_id), metadata=METADATA, timeout=10)
                assert refused.value.code().name == code
        process.process.terminate()
        assert await process.ended(15) == 0
    assert process.complaint == ""
    return process.output


def test_each_line_is_json_with_its_event_level_and_time(log):
    entries = [json.loads(line) for line in log.splitlines()]
    assert all({"event", "level", "timestamp"} <= entry.keys() for entry in entries)
    assert [entries[0]["event"], entries[-1]["event"]] == ["starting", "stopped"]


def test_a_call_that_failed_is_logged_with_its_method_and_trace(log):
    entries = [json.loads(line) for line in log.splitlines()]
    (failed,) = [entry for entry in entries if entry["event"] == "call failed"]
    assert (failed["method"], failed["trace_id"]) == (COMMIT, TRACE_ID)
    assert (failed["level"], failed["code"], failed["reason"]) == ("warning", "UNAVAILABLE", "STORE_UNAVAILABLE")


def test_what_users_said_and_secrets_are_not_logged(log):
    assert SECRET_OF_USER not in log
    assert PASSWORD not in log
    assert json.loads(log.splitlines()[0])["redis_url"] == "***"
