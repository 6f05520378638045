"""Tools outside that keep a ledger: one has an effect for each Idempotency-Key, the other for each time it is asked."""

import asyncio
import json
from collections import Counter

from tests.support.http_server import HttpServer, Request, answer

PATH = "/orders"
PAYMENTS = "/payments"
_ITEM = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}
ORDER = {
    "name": "order",
    "description": "Orders an item.",
    "side_effect": "SIDE_EFFECT_IDEMPOTENT",
    "timeout": "2s",
    "parameters": _ITEM,
    "http": {"method": "HTTP_METHOD_POST", "endpoint": "shop", "url": PATH, "idempotency_key": True},
}
"""A tool that may be asked again under its key."""

PAY = {
    "name": "pay",
    "description": "Pays for an item.",
    "side_effect": "SIDE_EFFECT_SIDE_EFFECT",
    "timeout": "2s",
    "parameters": _ITEM,
    "http": {"method": "HTTP_METHOD_POST", "endpoint": "shop", "url": PAYMENTS},
}
"""A tool that knows no keys."""


class Ledger:
    """What was ordered."""

    def __init__(self, shop: HttpServer) -> None:
        """Answers at `shop`."""
        self.asked: Counter[str] = Counter()
        """By key: how often it was asked."""

        self.payments: Counter[str] = Counter()
        """By item: how often it was paid for."""

        self._effects: dict[str, str] = {}
        shop.answers[PATH] = self._order
        shop.answers[PAYMENTS] = self._pay

    async def _order(self, request: Request, writer: asyncio.StreamWriter) -> None:
        key = request.headers["idempotency-key"]
        self.asked[key] += 1
        self._effects.setdefault(key, json.loads(request.body)["item"])
        await answer(200, b'{"ordered": true}')(request, writer)

    async def _pay(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.payments[json.loads(request.body)["item"]] += 1
        await answer(200, b'{"paid": true}')(request, writer)

    def keys(self, item: str) -> list[str]:
        """The keys under which an item was ordered: one, when all is well."""
        return [key for key, ordered in self._effects.items() if ordered == item]

    def requests(self, item: str) -> int:
        """How often anyone asked for an item."""
        return sum(self.asked[key] for key in self.keys(item))
