"""Tool calls as a confused or malicious model makes them."""

import json
from random import Random

from services.orchestrator.domain.agent import ToolCall

_NAMES = ("order_status", "order_status", "order_status", "Order_Status", "rm_rf", "", "\x00", "x" * 500, "订单", "a b")
_VALUES: tuple[object, ...] = (1, 7, 0, -1, 2**63, 1.5, "1", "seven", None, True, [], {}, "\x07", "x" * 50, "ÿ")


def junk_calls(chance: Random) -> list[ToolCall]:
    """One to four calls; about a fifth of them can be run."""
    return [
        ToolCall(chance.choice(("", "same", "id")), chance.choice(_NAMES), _arguments(chance))
        for _ in range(chance.randint(1, 4))
    ]


def _arguments(chance: Random) -> str:
    good = json.dumps({"order_id": chance.randint(1, 9)})
    kind = chance.randrange(12)
    if kind < 3:
        return good
    if kind == 3:
        return good[: chance.randrange(len(good))]
    if kind == 4:
        return json.dumps({chance.choice(("order_id", "why", "other")): chance.choice(_VALUES) for _ in range(3)})
    if kind == 5:
        return chance.choice(("```json\n{}\n```", "<call>{}</call>", "{} {}", '"{}"')).replace("{}", good)
    if kind == 6:
        position = chance.randrange(len(good))
        return good[:position] + chr(chance.choice((0, 7, 27, 0x7F, 0x2028, 0x10FFFF))) + good[position:]
    if kind == 7:
        return '{"order_id": ' + "[" * chance.choice((10, 40, 20_000))
    if kind == 8:
        return chance.choice(
            ("NaN", "null", "", "[]", "7", "true", '{"order_id": NaN}', '{"order_id": 1, "order_id": 2}')
        )
    if kind == 9:
        return '{"order_id": 1, "why": "\\ud800"}'
    if kind == 10 and chance.random() < 0.1:
        return '{"order_id": 1, "why": "' + "y" * 1_000_000 + '"}'
    return "".join(chr(chance.randrange(32, 0x250)) for _ in range(chance.randrange(40)))
