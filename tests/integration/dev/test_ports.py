"""Ports: the wanted one, or the next that is free; never one of another stack that starts at the same time."""

import socket

import pytest

from services.dev.ports import HIGHEST, NoFreePort, Ports

HOST = "127.0.0.1"
BASE = 27300


def listening(host: str, port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen(1)
    return server


@pytest.mark.parametrize("host", [HOST, "0.0.0.0"])
def test_taken_port_is_passed_over(host: str) -> None:
    with Ports(HOST) as ports:
        wanted = ports.choose(BASE)
    with listening(host, wanted), Ports(HOST) as ports:
        assert ports.choose(wanted) > wanted


def test_port_is_given_once() -> None:
    with Ports(HOST) as ports:
        assert ports.choose(BASE) != ports.choose(BASE)


def test_another_stack_does_not_get_a_port_that_is_not_listened_on_yet() -> None:
    with Ports(HOST) as one, Ports(HOST) as other:
        assert one.choose(BASE) != other.choose(BASE)


def test_port_is_free_again_when_its_stack_is_gone() -> None:
    with Ports(HOST) as ports:
        first = ports.choose(BASE)
    with Ports(HOST) as ports:
        assert ports.choose(first) == first


def test_no_port_above_the_highest_is_given() -> None:
    with Ports(HOST) as ports, pytest.raises(NoFreePort):
        for _ in range(3):
            ports.choose(HIGHEST - 1)
