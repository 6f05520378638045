"""The library of server-side functions: its text, and its names and refusals on the server."""

import hashlib
from importlib import resources
from types import MappingProxyType

from services.kit.errors import ServiceError, by_reason

MISSING = "Function not found"
"""What the server says when it lacks a function; its error code is `ERR`."""

Argument = str | bytes | int


_FILES = ("library", "sessions", "turns", "runs", "owners", "tools", "agents")
"""The files in `lua/`, in the order in which they make one text: what all use comes first."""


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

    def command(self, function: str, keys: tuple[str, ...], *arguments: Argument) -> tuple[Argument, ...]:
        """The command that calls a function."""
        return ("FCALL", f"{function}_{self.version}", len(keys), *keys, *arguments)


def read_library() -> Library:
    """The library that ships with this package."""
    folder = resources.files("services.kit").joinpath("lua")
    return Library("\n".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in _FILES))


_MESSAGES = MappingProxyType(
    {
        "ABORTED": "the log has no such place: an event before it is missing, or it is taken",
        "AGENT_NOT_FOUND": "no such agent, or no such revision of it",
        "LEASE_LOST": "a later turn holds the session, or this one has ended",
        "REQUEST_ID_REUSED": "the request id was used before with another body",
        "RESOURCE_EXHAUSTED": "there are as many as there may be",
        "RUN_NOT_FOUND": "no such run",
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
