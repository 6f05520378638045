"""Requests of greeter."""

from myriad.greeter.v1 import greeter_pb2 as pb
from tests.support.rows.row import Answer, Owner, Row


def rows() -> dict[str, Row]:
    """By the RPC's name."""
    return {"Greet": Row(lambda _: pb.GreetRequest(person="Ada"), Owner.TENANT, Answer.THEIR_OWN)}
