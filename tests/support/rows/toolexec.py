"""Requests of toolexec."""

from google.protobuf.message import Message

from myriad.toolexec.v1 import toolexec_pb2 as pb
from tests.support.rows.row import Names, Owner, Row, ref


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

    return {
        "ListTools": Row(lambda names: pb.ListToolsRequest(agent=ref(names)), Owner.TENANT),
        "Execute": Row(execute, Owner.TENANT),
    }
