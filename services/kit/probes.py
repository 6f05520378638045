"""Tells whether this process lives and is ready, from threads of its own: callers who fill the loop do not delay it.

It is asked over HTTP, on the port of metrics: `/livez`, the process alone, and `/readyz`, what its checks said last.
200 is yes and 503 no; all else that is asked for there are the metrics. gRPC's own health says the same, and waits its
turn among the calls.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, MetricsHandler

log = structlog.get_logger(__name__)

STILL_S = 2.0
"""A loop that did not turn for so long stands still: the process lives no more, and is not ready."""


class Vitals:
    """How this process is: told by its loop, asked by a thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """It has just moved, and is not ready."""
        self._clock = clock
        self._moved_at = clock()
        self._ready = False

    def moved(self) -> None:
        """The loop turns."""
        self._moved_at = self._clock()

    def say(self, *, ready: bool) -> None:
        """The checks passed, or did not."""
        self._ready = ready

    @property
    def alive(self) -> bool:
        """Whether the loop turns."""
        return self._clock() - self._moved_at < STILL_S

    @property
    def ready(self) -> bool:
        """Whether calls can be served."""
        return self.alive and self._ready


def serve_probes(host: str, port: int, vitals: Vitals, metrics: CollectorRegistry) -> Callable[[], None]:
    """Answers from now on; what it returns ends that.

    Raises:
        OSError: the port cannot be had.
    """
    server, closing = _Server(host, port, vitals, metrics), threading.Event()

    def serve() -> None:
        while not closing.is_set():
            server.handle_request()
        server.server_close()

    def close() -> None:
        closing.set()
        server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which waits for the next

    threading.Thread(target=serve, daemon=True).start()
    return close


class _Handler(MetricsHandler):
    timeout = 5.0  # of who connects, and then says nothing
    vitals: Vitals

    def do_GET(self) -> None:
        if self.path not in {"/livez", "/readyz"}:
            return super().do_GET()
        yes = self.vitals.ready if self.path == "/readyz" else self.vitals.alive
        self.send_response(200 if yes else 503)
        self.end_headers()
        self.wfile.write(b"yes\n" if yes else b"no\n")


class _Server(ThreadingHTTPServer):
    def __init__(self, host: str, port: int, vitals: Vitals, metrics: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        handler = type("_OwnHandler", (_Handler,), {"vitals": vitals, "registry": metrics})
        super().__init__((host, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells what is wrong with us, and not that whoever asked has gone."""
        if not isinstance(sys.exception(), OSError):
            log.error("probe broke", exc_info=True)
