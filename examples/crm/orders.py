"""The orders: made up, always the same for the same day."""

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

FIRST, LAST = 1001, 1060

PRICES = {
    "kettle": Decimal("45.00"),
    "teapot": Decimal("34.00"),
    "enamel mug": Decimal("12.00"),
    "cast-iron pan": Decimal("39.00"),
    "linen towel": Decimal("16.00"),
    "apron": Decimal("24.00"),
    "wool blanket": Decimal("79.00"),
    "desk lamp": Decimal("52.00"),
    "alarm clock": Decimal("31.00"),
    "umbrella": Decimal("28.00"),
    "candle": Decimal("14.00"),
    "notebook": Decimal("8.00"),
}
"""Product to price of one piece, in US dollars. The agent's articles name the same prices."""

_STATUSES = (
    "delivered", "delivered", "processing", "shipped", "delivered",
    "shipped", "processing", "shipped", "shipped", "cancelled",
)  # fmt: skip
_FREE_FROM = Decimal("50.00")


@dataclass(frozen=True)
class Order:
    """An order as the shop sees it."""

    order_id: str
    """Four digits."""

    status: str
    """`processing`, `shipped`, `delivered` or `cancelled`."""

    items: tuple[str, ...]
    """Number and product of each line: `2 x enamel mug`."""

    carrier: str
    ordered_on: date
    expected_on: date | None
    """Day of delivery; for a delivered order the day it came. None: it will not come."""

    total: Decimal
    """What the customer paid, shipping included, in US dollars."""

    @property
    def summary(self) -> str:
        """The order in words for the customer: how far it is, then what is in it."""
        day = f"{self.expected_on:%A, %B} {self.expected_on.day}" if self.expected_on else ""
        state = {
            "processing": f"is still processing and will arrive on {day} with {self.carrier}",
            "shipped": f"was shipped with {self.carrier} and will arrive on {day}",
            "delivered": f"was delivered by {self.carrier} on {day}",
            "cancelled": "was cancelled and will not be delivered",
        }[self.status]
        return f"Order {self.order_id} {state}. In it: {', '.join(self.items)}."


def order(number: int, today: date) -> Order | None:
    """The order of that number as it stands on `today`; None when there is none (only 1001 to 1060 exist)."""
    if not FIRST <= number <= LAST:
        return None
    status = _STATUSES[number % len(_STATUSES)]
    lines = _lines(number)
    goods = sum((PRICES[product] * count for product, count in lines.items()), Decimal(0))
    carrier, price, transit = _shipping(number, goods, abroad=number % 11 == 0 and "candle" not in lines)
    ordered_on, expected_on = _days(number, status, transit, today)
    return Order(
        order_id=str(number),
        status=status,
        items=tuple(f"{count} x {product}" for product, count in lines.items()),
        carrier=carrier,
        ordered_on=ordered_on,
        expected_on=expected_on if status != "cancelled" else None,
        total=goods + price,
    )


def _lines(number: int) -> dict[str, int]:
    """Product to number of pieces, one to three products. 5 and 12 have no common factor, so none comes twice."""
    products = tuple(PRICES)
    return {products[(number * 7 + k * 5) % len(products)]: 1 + number // (k + 3) % 2 for k in range(1 + number % 3)}


def _shipping(number: int, goods: Decimal, *, abroad: bool) -> tuple[str, Decimal, int]:
    """Carrier, price and working days on the way, as the articles on shipping tell them."""
    if abroad:
        return "Globe Parcel", Decimal("19.90"), 7 + number % 6
    if number % 4 == 0:
        return "Arrow Express", Decimal("12.90"), 1
    return "Swift Post", Decimal("0.00") if goods >= _FREE_FROM else Decimal("4.90"), 3 + number % 3


def _days(number: int, status: str, transit: int, today: date) -> tuple[date, date]:
    """Day of the order and day of delivery: packing takes one working day, then the parcel is `transit` on its way."""
    ago = {
        "processing": 0,
        "shipped": 1 + number % transit,
        "delivered": 1 + transit + 1 + number % 15,
        "cancelled": 3 + number % 10,
    }[status]
    ordered_on = _working_days(today, -ago)
    return ordered_on, _working_days(ordered_on, 1 + transit)


def _working_days(day: date, count: int) -> date:
    """The working day `count` working days after `day` (before it, when negative); a weekend counts as its Friday."""
    while day.weekday() > 4:
        day -= timedelta(days=1)
    step = timedelta(days=1 if count > 0 else -1)
    for _ in range(abs(count)):
        day += step
        while day.weekday() > 4:
            day += step
    return day
