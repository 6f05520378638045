"""Refunds: never more than was paid, and once per idempotency key."""

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from examples.crm.orders import Order

_AMOUNT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,2})?)(?: USD)?")
_MAX_KEYS = 10_000
_MAX_REASON = 200


class RefundRefused(Exception):
    """The refund cannot be made. The message says why."""

    def __init__(self, status: int, message: str) -> None:
        """`status` is the HTTP status that says so."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Refund:
    """Money on its way back to a customer."""

    refund_id: str
    order_id: str
    amount: Decimal
    """US dollars."""


class Refunds:
    """What was paid back since the process began. Safe to use from several threads."""

    def __init__(self) -> None:
        """Nothing was paid back yet."""
        self._lock = threading.Lock()
        self._paid: dict[str, Decimal] = {}
        self._by_key: OrderedDict[str, tuple[Mapping[str, Any], Refund]] = OrderedDict()
        self._count = 0

    def make(self, order: Order, body: Mapping[str, Any], key: str) -> Refund:
        """Pays an order back.

        Args:
            order: The order.
            body: `amount` ("12.50", "12.50 USD" or a number; absent: what is left of the order) and `reason`.
            key: A repeated key gets the refund it got first. Empty: each call is a new refund.

        Raises:
            RefundRefused: 400 for a wrong body, 409 for more than is left, 422 for a key used for something else.
        """
        asked = _asked(body)
        request = {**body, "order_id": order.order_id}
        with self._lock:
            if key in self._by_key:
                return self._repeated(key, request)
            left = order.total - self._paid.get(order.order_id, Decimal(0))
            amount = left if asked is None else asked
            if not 0 < amount <= left:
                raise RefundRefused(409, f"{left} USD of order {order.order_id} can be refunded")
            self._paid[order.order_id] = order.total - left + amount
            self._count += 1
            refund = Refund(f"R{self._count:04}", order.order_id, amount)
            if key:
                self._by_key[key] = (request, refund)
                if len(self._by_key) > _MAX_KEYS:
                    self._by_key.popitem(last=False)
            return refund

    def _repeated(self, key: str, request: Mapping[str, Any]) -> Refund:
        first, refund = self._by_key[key]
        if first != request:
            raise RefundRefused(422, "this Idempotency-Key was used for another refund")
        return refund


def _asked(body: Mapping[str, Any]) -> Decimal | None:
    unknown = set(body) - {"amount", "reason"}
    if unknown:
        raise RefundRefused(400, f"unknown fields: {', '.join(sorted(unknown))}")
    reason = body.get("reason", "")
    if not isinstance(reason, str) or len(reason) > _MAX_REASON:
        raise RefundRefused(400, f"reason must be text of at most {_MAX_REASON} characters")
    if "amount" not in body:
        return None
    amount = body["amount"]
    match = None if isinstance(amount, bool) else _AMOUNT.fullmatch(str(amount))
    if match is None:
        raise RefundRefused(400, "amount must be dollars and cents, such as 12.50")
    return Decimal(match[1])
