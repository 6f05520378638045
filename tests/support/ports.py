"""Ports for servers of tests, below those that the system gives to clients."""

import random
import socket

_LOWEST, _HIGHEST = 15_000, 32_767


def free_port(beside: int = 0) -> int:
    """A port on this machine that nobody listens on, nor on the one that is `beside` further up."""
    while True:
        port = random.randint(_LOWEST, _HIGHEST - beside)
        if all(map(_is_free, {port, port + beside})):
            return port


def free_address() -> str:
    """host:port of a free port."""
    return f"127.0.0.1:{free_port()}"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
