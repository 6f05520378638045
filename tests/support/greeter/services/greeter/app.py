"""Builds greeter: who is wired to whom."""

from myriad.greeter.v1 import greeter_pb2_grpc
from services.greeter.adapters.clock import SystemClock
from services.greeter.config import Config
from services.greeter.core import Greeter
from services.greeter.servicer import GreeterServicer
from services.kit.app import App, Kit


async def build(config: Config, kit: Kit) -> App:
    """The service, over the clock of this machine."""
    servicer = GreeterServicer(Greeter(SystemClock(), config.noon))
    return App(
        name="greeter",
        add_to=lambda server: greeter_pb2_grpc.add_GreeterServiceServicer_to_server(servicer, server),
    )
