"""The functions an operator installs, and the two that come with the service."""

import zoneinfo
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

from services.toolexec.core.arguments import wrong
from services.toolexec.core.calculator import CalculationError, calculate
from services.toolexec.ports import Clock

Function = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Takes the arguments, already fit for the agent's schema; returns a value JSON can carry. Raises FunctionFailed."""


class FunctionFailed(Exception):
    """The function answers with an error. The message is for the model."""


def installed(clock: Clock) -> dict[str, Function]:
    """`calculator` {expression} and `current_time` {timezone, default UTC}."""

    async def calculator(arguments: Mapping[str, Any]) -> Any:
        try:
            return {"result": calculate(_text(arguments, "expression"))}
        except CalculationError as error:
            raise FunctionFailed(str(error)) from None

    async def current_time(arguments: Mapping[str, Any]) -> Any:
        name = _text(arguments, "timezone", default="UTC")
        now = clock.now().astimezone(_zone(name))
        return {
            "time": now.isoformat(timespec="seconds"),
            "timezone": name,
            "weekday": _weekday(now),
        }

    return {"calculator": calculator, "current_time": current_time}


def _text(arguments: Mapping[str, Any], name: str, *, default: str | None = None) -> str:
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise wrong("must be text", argument=name)
    return value


def _zone(name: str) -> tzinfo:
    if name in {"UTC", "Z", ""}:
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise FunctionFailed(f"{name[:64]!r} is not an IANA time zone, such as Europe/Berlin") from None


def _weekday(now: datetime) -> str:
    # Not strftime, which answers in the language of the machine.
    return ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[now.weekday()]
