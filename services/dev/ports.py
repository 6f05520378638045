"""Free ports for the parts of one stack."""

import socket
from types import TracebackType
from typing import Self

HIGHEST = 32767
"""Higher ports are ephemeral: the kernel may give one away between our look and the part's bind."""


class NoFreePort(Exception):
    """Every port from the wanted one up is taken."""


class Ports:
    """Chooses ports and keeps other stacks from choosing them.

    A chosen port is reserved among stacks by an abstract socket of its number, which the kernel drops when this process
    ends: two stacks that start at once do not both find the same port free.
    """

    def __init__(self, host: str) -> None:
        """Chooses ports to listen on at `host`."""
        self._host = host
        self._reserved: dict[int, socket.socket] = {}

    def choose(self, wanted: int) -> int:
        """The wanted port, or the next one above it that is free.

        Raises:
            NoFreePort: there is none below 32768.
        """
        for port in range(wanted, HIGHEST + 1):
            if self._reserve(port):
                return port
        raise NoFreePort(f"no free port between {wanted} and {HIGHEST}")

    def _reserve(self, port: int) -> bool:
        if port in self._reserved:
            return False
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            reservation.bind(f"\0myriad-port-{port}")
            _bind(self._host, port)
        except OSError:
            reservation.close()
            return False
        self._reserved[port] = reservation
        return True

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives every port free."""
        for reservation in self._reserved.values():
            reservation.close()
        self._reserved.clear()


def _bind(host: str, port: int) -> None:
    """Binds as a server does (an earlier server's closed connections do not count as taken), and lets go.

    Raises:
        OSError: the port is taken, on this address or on all of them.
    """
    for address in (host, "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen(1)
