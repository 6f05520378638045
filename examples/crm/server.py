"""The HTTP face: `GET /orders/{id}`, `POST /orders/{id}/refunds`, `GET /healthz`. All bodies are JSON."""

import json
import logging
import re
from collections.abc import Callable
from datetime import date
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from examples.crm.orders import Order, order
from examples.crm.refunds import Refund, RefundRefused, Refunds

MAX_BODY = 65_536
IDLE_S = 30.0
"""A connection that says nothing for so long is closed."""

_ROUTES = (
    (re.compile(r"/healthz"), "GET"),
    (re.compile(r"/orders/([^/]+)"), "GET"),
    (re.compile(r"/orders/([^/]+)/refunds"), "POST"),
)
_ORDER_ID = re.compile(r"[0-9]{4}")
_LOG = logging.getLogger(__name__)


class _Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.allow = allow


def serve(host: str, port: int, today: Callable[[], date]) -> ThreadingHTTPServer:
    """A server that already listens; call its `serve_forever`.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        today: The day that the orders are told for.
    """
    return ThreadingHTTPServer((host, port), partial(Handler, today, Refunds()))


class Handler(BaseHTTPRequestHandler):
    """One connection. The base class reads the request line and bounds the header."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def __init__(self, today: Callable[[], date], refunds: Refunds, *connection: Any) -> None:
        """Serves the connection until it ends; `connection` is what the server gives."""
        self._today = today
        self._refunds = refunds
        super().__init__(*connection)

    def _answer(self) -> None:
        try:
            body = self._body()
            self._send(*self._routed(body))
        except _Problem as problem:
            self._send(problem.status, {"error": str(problem)}, allow=problem.allow)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _routed(self, body: bytes) -> tuple[int, Any]:
        path = urlsplit(self.path).path
        for pattern, method in _ROUTES:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if self.command != method:
                raise _Problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use {method}", allow=method)
            if not match.groups():
                return HTTPStatus.OK, {"status": "ok"}
            found = self._order(match[1])
            return self._refund(found, body) if method == "POST" else (HTTPStatus.OK, shown(found))
        raise _Problem(HTTPStatus.NOT_FOUND, "there is nothing at this path")

    def _order(self, order_id: str) -> Order:
        found = order(int(order_id), self._today()) if _ORDER_ID.fullmatch(order_id) else None
        if found is None:
            raise _Problem(HTTPStatus.NOT_FOUND, "there is no order with this number")
        return found

    def _refund(self, found: Order, body: bytes) -> tuple[int, Any]:
        try:
            asked = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            raise _Problem(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
        if not isinstance(asked, dict):
            raise _Problem(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
        try:
            refund = self._refunds.make(found, asked, self.headers.get("Idempotency-Key", ""))
        except RefundRefused as refused:
            raise _Problem(refused.status, str(refused)) from None
        return HTTPStatus.CREATED, shown_refund(refund)

    def _body(self) -> bytes:
        """The request's body. Where it cannot be read whole, the connection ends with the answer."""
        length = self.headers.get("Content-Length", "0")
        self.close_connection, keep = True, self.close_connection
        if "Transfer-Encoding" in self.headers:
            raise _Problem(HTTPStatus.LENGTH_REQUIRED, "send Content-Length")
        if not (length.isascii() and length.isdigit()):
            raise _Problem(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise _Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {MAX_BODY} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Problem(HTTPStatus.BAD_REQUEST, "the body is shorter than Content-Length")
        self.close_connection = keep
        return body

    def _send(self, status: int, value: Any, *, allow: str = "") -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if allow:
            self.send_header("Allow", allow)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (a bad request line, too long a header) is JSON, too."""
        self.close_connection = True
        # What cannot be read counts as HTTP/0.9, whose answers have no header.
        self.request_version = self.protocol_version
        self._send(code, {"error": message or HTTPStatus(code).phrase})

    def version_string(self) -> str:
        """What the header `Server` says."""
        return "kettle-lane"

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request, at level DEBUG."""
        _LOG.debug(format, *args)


def shown(found: Order) -> dict[str, Any]:
    """An order as JSON."""
    return {
        "order_id": found.order_id,
        "status": found.status,
        "summary": found.summary,
        "items": list(found.items),
        "carrier": found.carrier,
        "ordered_on": found.ordered_on.isoformat(),
        "expected_on": found.expected_on.isoformat() if found.expected_on else None,
        "total": f"{found.total} USD",
    }


def shown_refund(refund: Refund) -> dict[str, Any]:
    """A refund as JSON."""
    return {
        "refund_id": refund.refund_id,
        "order_id": refund.order_id,
        "amount": f"{refund.amount} USD",
        "status": "accepted",
    }
