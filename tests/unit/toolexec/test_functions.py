from datetime import UTC, datetime

import pytest

from services.kit.errors import InvalidToolArguments
from services.toolexec.adapters.inmemory import FixedClock
from services.toolexec.core.functions import FunctionFailed, installed

CLOCK = FixedClock(datetime(2026, 3, 29, 0, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    "zone",
    [
        "Nowhere/None",
        "../../etc/passwd",
        "/etc/localtime",
        "Europe",
        "Europe/Berlin\x00",
        "zone.tab",
        "x" * 10_000,
        " ",
        "GMT+25",
    ],
)
async def test_a_zone_that_is_none_is_an_error_to_read(zone):
    with pytest.raises(FunctionFailed, match="IANA time zone") as caught:
        await installed(CLOCK)["current_time"]({"timezone": zone})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("current_time", {"timezone": 1}), ("calculator", {}), ("calculator", {"expression": 1})],
)
async def test_arguments_the_agents_schema_let_through_are_checked_again(function, arguments):
    with pytest.raises(InvalidToolArguments):
        await installed(CLOCK)[function](arguments)


async def test_the_time_is_utc_unless_a_zone_is_named():
    found = await installed(CLOCK)["current_time"]({})
    assert found == {"time": "2026-03-29T00:30:00+00:00", "timezone": "UTC", "weekday": "Sunday"}


@pytest.mark.parametrize(
    ("zone", "time", "weekday"),
    [
        ("Europe/Berlin", "2026-03-29T01:30:00+01:00", "Sunday"),
        ("America/New_York", "2026-03-28T20:30:00-04:00", "Saturday"),
        ("Asia/Kolkata", "2026-03-29T06:00:00+05:30", "Sunday"),
    ],
)
async def test_the_time_is_told_in_a_zone(zone, time, weekday):
    found = await installed(CLOCK)["current_time"]({"timezone": zone})
    assert found == {"time": time, "timezone": zone, "weekday": weekday}


async def test_summer_time_begins_when_it_does():
    clock = FixedClock(datetime(2026, 3, 29, 1, 30, tzinfo=UTC))
    found = await installed(clock)["current_time"]({"timezone": "Europe/Berlin"})
    assert found["time"] == "2026-03-29T03:30:00+02:00"


async def test_the_calculator_answers_and_fails_in_words():
    calculator = installed(CLOCK)["calculator"]
    assert await calculator({"expression": "6 * 7"}) == {"result": 42}
    with pytest.raises(FunctionFailed, match="division by zero"):
        await calculator({"expression": "1 / 0"})
