"""The library of server-side functions: its text, and its names and refusals on the server."""

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from types import MappingProxyType

from services.kit.errors import ServiceError, by_reason

MISSING = "Function not found"
"""What the server says when it lacks a function; its error code is `ERR`."""

Argument = str | bytes | int


_FILES = (
    "library",
    "sessions",
    "budgets",
    "limits",
    "turns",
    "runs",
    "owners",
    "queue",
    "queue_claims",
    "dead_letters",
    "tools",
    "executions",
    "callbacks",
    "agents",
    "forks",
    "feedback",
    "events",
    "replies",
)
"""The files in `lua/`, in the order in which they make one text: what all use comes first."""


LOSABLE = frozenset(
    {"session_touch", "session_drop", "owner_beat", "queue_claim", "queue_extend", "budget_get", "budget_touch"}
)
"""Functions that write what nobody was promised, or what is soon written again. All others that write promise it."""

_REGISTERED = re.compile(r"redis\.register_function(?:\('|\{function_name = ')(\w+)_VERSION'([^\n]*)")
_READS = "'no-writes'"


class Library:
    """The functions of `lua/`, named by the digest of their text.

    A server keeps the libraries of several releases side by side, so each release of ours calls the functions it was
    tested with, also in the middle of a rolling update.
    """

    def __init__(self, text: str) -> None:
        """`text` has `VERSION` where the digest goes."""
        self.version = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.name = f"myriad_{self.version}"
        self.code = text.replace("VERSION", self.version)
        self.functions = tuple(_REGISTERED.findall(text))
        promising = {name for name, flags in self.functions if _READS not in flags} - LOSABLE
        self._promising = frozenset(f"{name}_{self.version}" for name in promising)

    def command(self, function: str, keys: tuple[str, ...], *arguments: Argument) -> tuple[Argument, ...]:
        """The command that calls a function."""
        return ("FCALL", f"{function}_{self.version}", len(keys), *keys, *arguments)

    def promises(self, command: Sequence[Argument | float]) -> bool:
        """Whether a command calls a function whose effect is promised to whoever calls it."""
        return command[0] == "FCALL" and command[1] in self._promising


def read_library() -> Library:
    """The library that ships with this package."""
    folder = resources.files("services.kit").joinpath("lua")
    return Library("\n".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in _FILES))


_MESSAGES = MappingProxyType(
    {
        "ABORTED": "the log has no such place: an event before it is missing, or it is taken",
        "AGENT_NOT_FOUND": "no such agent, or no such revision of it",
        "APPROVAL_INVALID": "the approval is another's, was used, or has expired",
        "BUDGET_EXHAUSTED": "nothing is left of the budget",
        "EXECUTION_NOT_FOUND": "no such execution of a tool",
        "LEASE_LOST": "a later turn holds the session, or this one has ended",
        "LINE_FULL": "as many runs wait in the session as may",
        "QUEUE_FULL": "as many items of the tenant wait in the queue as may",
        "REQUEST_IN_PROGRESS": "the same request is under way",
        "REQUEST_ID_REUSED": "the request id was used before with another body",
        "RESOURCE_EXHAUSTED": "there are as many as there may be",
        "RUN_NOT_FOUND": "no such run",
        "RUN_NOT_WAITING": "the run waits for no answer",
        "SESSION_BUSY": "another run holds the session",
        "SESSION_NOT_FOUND": "no such session",
    }
)


def refusal(error: str) -> ServiceError | None:
    """The failure that a function's error reply `MYRIAD <REASON> <ms>` stands for. None: it is no such reply."""
    mark, _, rest = error.partition(" ")
    reason, _, retry_ms = rest.partition(" ")
    if mark != "MYRIAD" or reason not in _MESSAGES:
        return None
    return by_reason()[reason](_MESSAGES[reason], retry_after=int(retry_ms) / 1000 or None)
