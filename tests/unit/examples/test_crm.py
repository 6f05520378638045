import io
import json
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from examples.crm.orders import FIRST, LAST, PRICES, Order, order
from examples.crm.refunds import RefundRefused, Refunds
from examples.crm.server import MAX_BODY, Handler

FRIDAY = date(2026, 11, 20)
ORDERS = range(FIRST, LAST + 1)


class Shop:
    """The CRM's HTTP face over bytes, without a socket."""

    def __init__(self) -> None:
        self.refunds = Refunds()

    def send(self, raw: bytes) -> list[tuple[int, Mapping[str, str], Any]]:
        """Status, headers and body of each answer on one connection that sends `raw`."""
        connection = _Connection(raw)
        Handler(lambda: FRIDAY, self.refunds, connection, ("client", 0), None)
        return list(_answers(connection.sent))

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        lines = [f"{method} {path} HTTP/1.1", "Host: shop", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        ((status, _, value),) = self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return status, value

    def refund(self, order_id: str = "1007", key: str = "", **body: Any) -> tuple[int, Any]:
        headers = {"Idempotency_Key": key} if key else {}
        return self.ask("POST", f"/orders/{order_id}/refunds", json.dumps(body).encode(), **headers)


class _Connection:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.sent = b""

    def settimeout(self, _seconds: float) -> None:
        pass

    def makefile(self, _mode: str, _size: int) -> io.BytesIO:
        return io.BytesIO(self._raw)

    def sendall(self, data: bytes) -> None:
        self.sent += data


def _answers(sent: bytes) -> Iterator[tuple[int, Mapping[str, str], Any]]:
    while sent:
        head, _, rest = sent.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["Content-Length"])
        yield int(first.split()[1]), headers, json.loads(rest[:length])
        sent = rest[length:]


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.mark.parametrize("order_id", ["1000", "1061", "999", "10070", "+107", "abc", "%D9%A1007", "1007%00"])
def test_an_unknown_order_is_not_found(shop: Shop, order_id: str) -> None:
    status, body = shop.ask("GET", f"/orders/{order_id}")
    assert status == 404
    assert set(body) == {"error"}


@pytest.mark.parametrize("path", ["/", "/orders", "/orders/", "/orders/1007/", "/orders/1007/refunds/1", "/healthz/x"])
def test_an_unknown_path_is_not_found(shop: Shop, path: str) -> None:
    assert shop.ask("GET", path)[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/healthz", "GET"), ("DELETE", "/orders/1007", "GET"), ("GET", "/orders/1007/refunds", "POST")],
)
def test_a_wrong_method_is_told_the_right_one(shop: Shop, method: str, path: str, allowed: str) -> None:
    ((status, headers, _),) = shop.send(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    assert status == 405
    assert headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("Content-Length: x", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: ²", 400),
        ("Content-Length: 5", 400),
        (f"Content-Length: {MAX_BODY + 1}", 413),
        ("Content-Length: 99999999999999999999", 413),
        ("Transfer-Encoding: chunked", 411),
        ("\r\n".join(f"X-{n}: 1" for n in range(200)), 431),
        ("X: " + "a" * 70_000, 431),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_and_its_connection_closed(shop: Shop, head: str, status: int) -> None:
    raw = f"POST /orders/1007/refunds HTTP/1.1\r\n{head}\r\n\r\nGET".encode()
    ((seen, headers, body),) = shop.send(raw)
    assert (seen, headers["Connection"], set(body)) == (status, "close", {"error"})


@pytest.mark.parametrize(
    "raw", [b"nonsense\r\n\r\n", b"GET /healthz HTTP/9.9\r\n\r\n", b"BREW /healthz HTTP/1.1\r\n\r\n"]
)
def test_a_bad_request_line_gets_an_error_in_json(shop: Shop, raw: bytes) -> None:
    ((status, headers, body),) = shop.send(raw)
    assert status in {400, 501, 505}
    assert headers["Content-Type"] == "application/json"
    assert set(body) == {"error"}


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b"\xff", b"[" * 60_000])
def test_a_refund_with_a_body_that_is_no_object_is_refused(shop: Shop, body: bytes) -> None:
    assert shop.ask("POST", "/orders/1007/refunds", body)[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        {"amount": "-1"},
        {"amount": "1e3"},
        {"amount": True},
        {"amount": None},
        {"amount": "12.345"},
        {"amount": "5.00 EUR"},
        {"reason": 7},
        {"reason": "x" * 201},
        {"sum": "5.00"},
    ],
)
def test_a_wrong_field_of_a_refund_is_refused(shop: Shop, body: dict[str, Any]) -> None:
    assert shop.refund(**body)[0] == 400


@pytest.mark.parametrize("amount", ["0", "0.00", "154.01", 999999])
def test_no_more_than_was_paid_is_refunded(shop: Shop, amount: object) -> None:
    assert shop.refund(amount=amount)[0] == 409


def test_refunds_of_one_order_add_up_to_its_price_at_most(shop: Shop) -> None:
    assert shop.refund(amount="100")[0] == 201
    assert shop.refund(amount="54.01")[0] == 409
    assert shop.refund() == (
        201,
        {"refund_id": "R0002", "order_id": "1007", "amount": "54.00 USD", "status": "accepted"},
    )
    assert shop.refund()[0] == 409


def test_a_repeated_idempotency_key_gets_the_same_refund(shop: Shop) -> None:
    first = shop.refund(key="run.1", amount="20.00 USD", reason="broken")
    assert first[0] == 201
    assert shop.refund(key="run.1", amount="20.00 USD", reason="broken") == first
    assert shop.refund(key="run.2", amount="20.00 USD", reason="broken")[1]["refund_id"] == "R0002"


def test_an_idempotency_key_does_not_serve_another_refund(shop: Shop) -> None:
    shop.refund(key="run.1", amount="20.00")
    assert shop.refund(key="run.1", amount="21.00")[0] == 422
    assert shop.refund("1008", key="run.1", amount="20.00")[0] == 422


def test_a_refused_refund_leaves_its_key_free(shop: Shop) -> None:
    assert shop.refund(key="run.1", amount="999.00")[0] == 409
    assert shop.refund(key="run.1", amount="20.00")[0] == 201


def test_keys_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.crm.refunds._MAX_KEYS", 2)
    refunds = Refunds()
    for key in ("a", "b", "c"):
        refunds.make(_order(1007), {"amount": "1"}, key)
    assert refunds.make(_order(1007), {"amount": "1"}, "c").refund_id == "R0003"
    assert refunds.make(_order(1007), {"amount": "1"}, "a").refund_id == "R0004"


def test_a_refusal_says_how_much_is_left() -> None:
    with pytest.raises(RefundRefused, match=r"154\.00 USD of order 1007"):
        Refunds().make(_order(1007), {"amount": "200"}, "")


def test_an_order_is_shown_with_what_the_agent_maps(shop: Shop) -> None:
    assert shop.ask("GET", "/orders/1007?verbose=1") == (
        200,
        {
            "order_id": "1007",
            "status": "shipped",
            "summary": "Order 1007 was shipped with Swift Post and will arrive on Wednesday, November 25. "
            "In it: 2 x apron, 2 x candle, 2 x cast-iron pan.",
            "items": ["2 x apron", "2 x candle", "2 x cast-iron pan"],
            "carrier": "Swift Post",
            "ordered_on": "2026-11-17",
            "expected_on": "2026-11-25",
            "total": "154.00 USD",
        },
    )


def test_it_is_healthy(shop: Shop) -> None:
    assert shop.ask("GET", "/healthz") == (200, {"status": "ok"})


def test_a_connection_serves_several_requests(shop: Shop) -> None:
    refund = b'POST /orders/1007/refunds HTTP/1.1\r\nContent-Length: 15\r\n\r\n{"amount": "5"}'
    missing = b"GET /orders/1 HTTP/1.1\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert [status for status, _, _ in shop.send(refund + missing + last)] == [201, 404, 200]


def test_there_are_sixty_orders() -> None:
    assert [_order(number).order_id for number in ORDERS] == [str(number) for number in range(1001, 1061)]
    assert order(FIRST - 1, FRIDAY) is None
    assert order(LAST + 1, FRIDAY) is None


def test_orders_are_of_every_status_and_carrier() -> None:
    assert {_order(number).status for number in ORDERS} == {"processing", "shipped", "delivered", "cancelled"}
    assert {_order(number).carrier for number in ORDERS} == {"Swift Post", "Arrow Express", "Globe Parcel"}


@pytest.mark.parametrize("day", [FRIDAY + timedelta(days=n) for n in range(7)])
def test_the_days_of_an_order_fit_its_status(day: date) -> None:
    for found in (_order(number, day) for number in ORDERS):
        assert found.ordered_on <= day
        assert found.ordered_on.weekday() < 5
        if found.expected_on is None:
            assert found.status == "cancelled"
            continue
        assert found.ordered_on < found.expected_on
        assert found.expected_on.weekday() < 5
        assert (found.expected_on < day) == (found.status == "delivered")


def test_an_order_is_the_same_all_day_and_moves_with_the_days() -> None:
    assert _order(1042) == _order(1042)
    assert _order(1042) != _order(1042, FRIDAY + timedelta(days=7))


def test_the_total_of_an_order_is_its_items_and_its_shipping() -> None:
    for found in map(_order, ORDERS):
        lines = [item.split(" x ") for item in found.items]
        goods = sum((int(count) * PRICES[product] for count, product in lines), Decimal(0))
        standard = Decimal("0.00") if goods >= 50 else Decimal("4.90")
        shipping = {"Swift Post": standard, "Arrow Express": Decimal("12.90"), "Globe Parcel": Decimal("19.90")}
        assert found.total == goods + shipping[found.carrier]


def test_no_candle_travels_abroad() -> None:
    abroad = [_order(number) for number in ORDERS if _order(number).carrier == "Globe Parcel"]
    assert abroad
    assert not [found for found in abroad if any("candle" in item for item in found.items)]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1002, "Order 1002 is still processing and will arrive on Thursday, November 26 with Swift Post. "),
        (1008, "Order 1008 was shipped with Arrow Express and will arrive on Monday, November 23. "),
        (1060, "Order 1060 was delivered by Arrow Express on Thursday, November 5. "),
        (1009, "Order 1009 was cancelled and will not be delivered. "),
    ],
)
def test_an_order_is_told_in_words(number: int, words: str) -> None:
    found = _order(number)
    assert found.status in words
    assert found.summary == f"{words}In it: {', '.join(found.items)}."


def test_the_prices_are_those_of_the_articles() -> None:
    article = (Path(__file__).parents[3] / "examples/aura/knowledge/products-and-prices.md").read_text()
    for product, price in PRICES.items():
        assert f"the {product} (${price:.0f})" in " ".join(article.split())


def _order(number: int, day: date = FRIDAY) -> Order:
    found = order(number, day)
    assert found is not None
    return found
