"""Ports: the wanted one, or the next that is free; never one of another stack that starts at the same time."""

import socket

import pytest

from services.dev.ports import HIGHEST, NoFreePort, Ports
from tests.support.ports import free_port

HOST = "127.0.0.1"


@pytest.fixture
def base() -> int:
    """From here on there are ports that only these tests choose."""
    return free_port(beside=4)


def listening(host: str, port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen(1)
    return server


@pytest.mark.parametrize("host", [HOST, "0.0.0.0"])
def test_taken_port_is_passed_over(host: str, base: int) -> None:
    with Ports(HOST) as ports:
        wanted = ports.choose(base)
    with listening(host, wanted), Ports(HOST) as ports:
        assert ports.choose(wanted) > wanted


def test_port_is_given_once(base: int) -> None:
    with Ports(HOST) as ports:
        assert ports.choose(base) != ports.choose(base)


def test_another_stack_does_not_get_a_port_that_is_not_listened_on_yet(base: int) -> None:
    with Ports(HOST) as one, Ports(HOST) as other:
        assert one.choose(base) != other.choose(base)


def test_port_is_free_again_when_its_stack_is_gone(base: int) -> None:
    with Ports(HOST) as ports:
        first = ports.choose(base)
    with Ports(HOST) as ports:
        assert ports.choose(first) == first


def test_no_port_above_the_highest_is_given() -> None:
    with Ports(HOST) as ports, pytest.raises(NoFreePort):
        for _ in range(3):
            ports.choose(HIGHEST - 1)
