"""Tools outside that keep a ledger: one has an effect for each Idempotency-Key, another for each time it is asked."""

import asyncio
import json
from collections import Counter

from tests.support.http_server import HttpServer, Request, answer

PATH = "/orders"
PAYMENTS = "/payments"
WAITS = "/waits"
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

DELIVER = {**ORDER, "name": "deliver", "description": "Orders an item, slowly.", "background": True}
"""The same, in the background."""

PAY = {
    "name": "pay",
    "description": "Pays for an item.",
    "side_effect": "SIDE_EFFECT_SIDE_EFFECT",
    "timeout": "2s",
    "parameters": _ITEM,
    "http": {"method": "HTTP_METHOD_POST", "endpoint": "shop", "url": PAYMENTS},
}
"""A tool that knows no keys."""

WAIT = {
    "name": "wait",
    "description": "Waits for an item, for ever.",
    "side_effect": "SIDE_EFFECT_READ",
    "timeout": "60s",
    "parameters": _ITEM,
    "http": {"method": "HTTP_METHOD_POST", "endpoint": "shop", "url": WAITS},
}
"""A tool that never answers."""


class Ledger:
    """What was ordered."""

    def __init__(self, shop: HttpServer) -> None:
        """Answers at `shop`."""
        self.asked: Counter[str] = Counter()
        """By key: how often it was asked."""

        self.payments: Counter[str] = Counter()
        """By item: how often it was paid for."""

        self.waited: dict[str, asyncio.Future[float]] = {}
        """By item that is waited for: when its caller was gone, by the loop's time."""

        self._effects: dict[str, str] = {}
        shop.answers[PATH] = self._order
        shop.answers[PAYMENTS] = self._pay
        shop.answers[WAITS] = self._wait

    async def _order(self, request: Request, writer: asyncio.StreamWriter) -> None:
        key = request.headers["idempotency-key"]
        self.asked[key] += 1
        self._effects.setdefault(key, json.loads(request.body)["item"])
        await answer(200, b'{"ordered": true}')(request, writer)

    async def _pay(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.payments[json.loads(request.body)["item"]] += 1
        await answer(200, b'{"paid": true}')(request, writer)

    async def _wait(self, request: Request, _writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        gone = self.waited[json.loads(request.body)["item"]] = loop.create_future()
        try:
            await loop.create_future()
        finally:
            gone.set_result(loop.time())

    def keys(self, item: str) -> list[str]:
        """The keys under which an item was ordered: one, when all is well."""
        return [key for key, ordered in self._effects.items() if ordered == item]

    def requests(self, item: str) -> int:
        """How often anyone asked for an item."""
        return sum(self.asked[key] for key in self.keys(item))
