"""Named places in the code at which a test build of a process dies, waits or fails.

In every other process they are nothing: `reached` is empty, and no setting is read here or anywhere else that could
make it more. A test build (`tests/support/failing.py`, which is in no image) puts a function of its own in its place
before it starts what it builds; so callers name it by its module: `await failpoints.reached(Point.BEFORE_INTENT)`.
"""

from enum import StrEnum


class Point(StrEnum):
    """Every place that has a name."""

    UNDERSTOOD = "run.understood"
    """The loop knows what the user means, and has not looked for facts yet."""

    RETRIEVED = "run.retrieved"
    """It has its facts; the model was not asked yet."""

    SAID = "run.said"
    """A call of the model is over; the loop has not noted yet what came of it."""

    BEFORE_INTENT = "run.before_intent"
    """The loop is about to write down that it begins a tool call."""

    AFTER_INTENT = "run.after_intent"
    """It has; the tool was not called yet."""

    AFTER_EFFECT = "run.after_effect"
    """The tool has answered; nobody has heard of it yet."""

    TOLD = "run.told"
    """The loop has noted what the tool answered; the model was not asked again yet."""

    BEFORE_COMMIT = "run.before_commit"
    """The answer is whole; the turn was not committed yet."""

    AFTER_COMMIT = "run.after_commit"
    """It was; its last event was not shown yet."""

    TOOL_ACCEPTED = "tool.accepted"
    """toolexec has kept a call in the background, and has not queued it yet."""

    BEFORE_TOOL_INTENT = "tool.before_intent"
    """toolexec is about to keep that it, and nobody else, makes a call."""

    AFTER_TOOL_INTENT = "tool.after_intent"
    """It has; the tool was not asked yet."""

    BEFORE_TOOL_RESULT = "tool.before_result"
    """toolexec has the tool's answer, and has not kept it yet."""

    AFTER_TOOL_RESULT = "tool.after_result"
    """It has; nobody was told yet."""

    BEFORE_TURN = "turn.before_begin"
    """memory is about to begin a turn in the store."""

    AFTER_TURN = "turn.after_begin"
    """The store has begun it; who asked does not know yet."""

    BEFORE_TURN_END = "turn.before_end"
    """memory is about to end a turn in the store."""

    AFTER_TURN_END = "turn.after_end"
    """The store has ended it; who asked does not know yet."""


async def reached(point: Point) -> None:
    """Says that the code is at a point. Does nothing."""
