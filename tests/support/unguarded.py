"""The functions of the store with a guard taken out of their text: what a control runs on, to see what it prevents."""

from contextlib import asynccontextmanager

from services.kit.functions import Library, read_library
from services.kit.redis import Redis

MARK = "unguarded"
"""Field of a session that is marked."""

_MARKED = f"redis.call('HEXISTS', session, '{MARK}') == 1"

FENCING = ("return found[1] == run and found[2] == token,", "return found[1] == run,")
"""A token that is not the latest writes as well."""

FENCING_OF_MOST = (FENCING[0], f"return found[1] == run and found[2] == token or {_MARKED}, ")
"""A token that is not the latest writes as well, in a session that is marked."""

SAME_EVENT = ("if event_of(log, first + i - 1) ~= args[at + i] then", "if false then")
"""An event whose place is taken by another counts as written."""

NO_HOLE = ("if first > newest + 1 then", "if false then")
"""A log may have holes."""

LEASE = (
    """local held_ms = redis.call('PTTL', lease)
  if held_ms > 0 then""",
    """local held_ms = redis.call('PTTL', lease)
  if false then""",
)
"""A run is gone on with though its owner lives."""

LINE = ("local waits = taken or ahead > 0 or", "local waits = taken or")
"""A turn begins at once, however many wait in the line."""

TURN_IN_LINE = (
    "if not run or args[5] ~= '0' and args[5] ~= run then",
    "run = args[5] ~= '0' and args[5] or run if not run then",
)
"""Whichever run of the line is asked for begins."""

KNOWN_REQUEST = ("local seen = request ~= '' and redis.call('HGET', requests, request)", "local seen = false")
"""A request that is repeated is another request."""

ENDED_ONCE = (
    """if not may_write(session, run, args[3]) then
    local ended""",
    """if false then
    local ended""",
)
"""An end that is written again counts again."""

CLAIMS_TAKEN_OVER = ("if idle > 0 then", "if false then")
"""What a worker has claimed is its own for ever."""

TURNS_TAKEN = ("redis.call('ZINCRBY', q.turns, 1 / tonumber(item.weight), tenant)", "")
"""A tenant keeps its turn while it has something waiting."""

GONE_TAKEN_OVER = ("local given = redis.call('SPOP', keys[2], args[2])", "local given = {}")
"""The sessions of a process that is gone are nobody's."""

Guard = tuple[str, str]
"""What stands in the library, once, and what instead of it when the guard is off."""


def without(*guards: Guard, text: str = "") -> str:
    """The text of a library without these guards; of ours when none is given."""
    text = text or read_library().code
    for guard, instead in guards:
        assert text.count(guard) == 1, f"not there, or not once: {guard}"
        text = text.replace(guard, instead)
    return text


def unguarded(redis: Redis, *guards: Guard) -> Redis:
    """The same client, whose functions lack these guards, if any. They have names of their own: others keep theirs."""
    ours = read_library()
    redis._library = Library(without(*guards, text=ours.code.replace(ours.version, "VERSION")))
    return redis


@asynccontextmanager
async def replaced(store, *guards: Guard):
    """While the block runs, the functions that everyone calls on a server lack these guards."""
    await store.execute_command("FUNCTION", "LOAD", "REPLACE", without(*guards))
    try:
        yield
    finally:
        await store.execute_command("FUNCTION", "LOAD", "REPLACE", read_library().code)
