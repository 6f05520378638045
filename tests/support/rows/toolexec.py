"""Requests of toolexec."""

from collections.abc import Callable

from google.protobuf.message import Message

from myriad.toolexec.v1 import toolexec_pb2 as pb
from tests.support.rows.row import Answer, Names, Owner, Row, ref

HOOK = "https://192.88.98.1/hook"
"""A public address; nothing is sent there."""


def rows() -> dict[str, Row]:
    """By the RPC's name."""

    def execute(names: Names) -> Message:
        return pb.ExecuteRequest(
            agent=ref(names),
            tool="calculate",
            arguments_json='{"expression": "6 * 7"}',
            run_id=names.held_run,
            idempotency_key="1:1",
        )

    def start(names: Names) -> Message:
        call = pb.ExecuteRequest(
            agent=ref(names),
            tool="calculate_slowly",
            arguments_json='{"expression": "6 * 7"}',
            run_id=names.held_run,
            idempotency_key="1:2",
        )
        return pb.StartExecutionRequest(call=call, tool_call_id="c1")

    def named(kind: type[Message]) -> Callable[[Names], Message]:
        return lambda names: kind(run_id=names.held_run, tool="calculate_slowly", idempotency_key="1:2")

    return {
        "ListTools": Row(lambda names: pb.ListToolsRequest(agent=ref(names)), Owner.TENANT),
        "Execute": Row(execute, Owner.TENANT),
        "StartExecution": Row(start, Owner.TENANT),
        "GetExecution": Row(named(pb.GetExecutionRequest), Owner.USER),
        "CancelExecution": Row(named(pb.CancelExecutionRequest), Owner.USER),
        "CheckCallback": Row(lambda names: pb.CheckCallbackRequest(callback_url=HOOK), Owner.USER, Answer.THEIR_OWN),
    }
