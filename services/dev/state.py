"""What is known of the running stack, kept in `stack.json` for the command line's other calls."""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from services.dev import processes

ROOT = Path(__file__).resolve().parents[2]
"""This checkout."""


class State(StrEnum):
    """How far a part, or the whole stack, is."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass
class PartState:
    """One part."""

    address: str
    """Where it listens: host:port."""

    state: State = State.WAITING
    pid: int = 0
    """0: it does not run."""

    started: str = ""
    """With the pid, names the process for good: see `processes.Process.started`."""

    ready_after_s: float = 0.0
    """Seconds from its start until it was ready, the latest time."""

    restarts: int = 0
    """How often it died and was started again."""

    message: str = ""
    """The latest trouble. Empty: none."""


@dataclass
class StackState:
    """The stack."""

    mark: str
    """Carried by every process of it: see `processes.MARK`."""

    pid: int
    """Of the supervisor."""

    started: str
    """With the pid, names the supervisor for good."""

    vertical: bool
    """All services in one process."""

    state: State = State.STARTING
    parts: dict[str, PartState] = field(default_factory=dict)
    """In the order in which they start."""

    addresses: dict[str, str] = field(default_factory=dict)
    """host:port of every service and engine by its name, whichever part it is in."""

    auth: bool = False
    """Envoy asks for a token, and the services for the mesh's."""

    tls: bool = False
    """Envoy and the services speak TLS."""

    def processes(self) -> list[processes.Process]:
        """Every process of it that runs, the supervisor not counted."""
        return processes.belonging(self.mark, {part.pid: part.started for part in self.parts.values() if part.pid})

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return dataclasses.asdict(self)


class Folder:
    """The work folder of one stack: what runs, its logs, its data, its keys, and who the command line is."""

    def __init__(self, path: Path) -> None:
        """Makes nothing; `path` need not be there."""
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.data = self.path / "data"
        self.run = self.path / "run"
        """Files made anew at each start."""
        self.models = self.data / "nlu"
        """nlu's trained models."""
        self.keys = self.path / "keys"
        """Keys, tokens and certificates; only their owner may look."""
        self.store = self.path / "store"
        """Passwords of the store's users, and what each may do; only their owner may look."""
        self.credentials = self.path / "credentials.json"
        """Who the command line is."""

    def make(self) -> None:
        """Makes the folders that are not there."""
        for folder in (self.logs, self.data, self.run):
            folder.mkdir(parents=True, exist_ok=True)

    def log(self, part: str) -> Path:
        """The log of a part."""
        return self.logs / f"{part}.log"

    def write(self, state: StackState) -> None:
        """Writes `stack.json`, whole or not at all."""
        whole = self.path / "stack.json.new"
        whole.write_text(json.dumps(state.to_json(), indent=1) + "\n")
        whole.replace(self.path / "stack.json")

    def read(self) -> StackState | None:
        """What `stack.json` says. None: there is none, or it cannot be read."""
        try:
            known = json.loads((self.path / "stack.json").read_text())
            parts = {
                name: PartState(**{**part, "state": State(part["state"])}) for name, part in known["parts"].items()
            }
            return StackState(**{**known, "parts": parts, "state": State(known["state"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def forget(self) -> None:
        """Removes `stack.json`: nothing runs."""
        (self.path / "stack.json").unlink(missing_ok=True)

    @contextmanager
    def owned(self) -> Iterator[bool]:
        """Takes the folder for this process, for as long as the block runs. False: another process has it.

        The lock is the kernel's: it is gone with the process that held it, however that ended.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "stack.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def is_owned(self) -> bool:
        """Whether a stack runs, starts or stops here."""
        if not (self.path / "stack.lock").exists():
            return False
        with self.owned() as free:
            return not free


def write_secret(file: Path, text: str) -> None:
    """Writes a file that only its owner reads, whole or not at all."""
    whole = file.with_name(f"{file.name}.new")
    whole.unlink(missing_ok=True)
    with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    whole.replace(file)
