"""Ports for servers of tests, between those that a stack begins to look at and those that the system gives to clients.

Each process of tests has blocks of ports that no other takes, and gives each port once: between the choice of a port
and the bind of its server nobody else can come upon it, however long a server takes to start.
"""

import itertools
import random
import socket
from collections.abc import Iterator

_LOWEST, _HIGHEST = 20_000, 32_767
_BLOCK = 64


def free_port(beside: int = 0) -> int:
    """A port on this machine that nobody listens on, nor on the `beside` ones that follow it."""
    while True:
        ports = [next(_PORTS) for _ in range(beside + 1)]
        if ports[-1] == ports[0] + beside and all(map(_is_free, ports)):
            return ports[0]


def free_address() -> str:
    """host:port of a free port."""
    return f"127.0.0.1:{free_port()}"


def _own_ports() -> Iterator[int]:
    """The ports of this process, a block after another, and the first again when all blocks are somebody's."""
    own: list[range] = []
    blocks = range(_LOWEST, _HIGHEST + 1 - _BLOCK, _BLOCK)
    reservations = []
    for first in random.sample(blocks, len(blocks)):
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0myriad-test-ports-{first}")  # the kernel drops it when this process ends
        except OSError:
            reservation.close()
            continue
        reservations.append(reservation)
        own.append(range(first, first + _BLOCK))
        yield from own[-1]
    yield from itertools.cycle(itertools.chain.from_iterable(own))


_PORTS = _own_ports()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
