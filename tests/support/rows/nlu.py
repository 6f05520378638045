"""Requests of nlu."""

from myriad.nlu.v1 import nlu_pb2 as pb
from tests.support.rows.row import Owner, Row, ref


def rows() -> dict[str, Row]:
    """By the RPC's name."""
    return {"Analyze": Row(lambda names: pb.AnalyzeRequest(agent=ref(names), text="hello"), Owner.TENANT)}
