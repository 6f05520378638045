"""Intent models in a folder: `<models_dir>/<tenant>/<agent>/<digest>.npz`.

A file is named by the digest of what it was made from, so it never changes, and a new revision of an agent finds its
own. It is written beside its place and renamed, so it is never seen half.
"""

import asyncio
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from services.kit.call import Principal
from services.nlu.intents import artefact
from services.nlu.intents.head import IntentHead
from services.nlu.lru import Lru

MISSING_FOR_S = 1.0
"""A file that was not there, or could not be read, is looked for again after this time."""
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MISSES = 4096

_Key = tuple[str, str, str]


class FileIntentModels:
    """Heads in files. Those used last are kept in memory."""

    def __init__(self, folder: Path, *, capacity: int, now: Callable[[], float] = time.monotonic) -> None:
        """Reads from `folder`, which need not be there yet.

        Args:
            folder: The folder of models.
            capacity: Heads to keep in memory.
            now: Seconds on a clock that never goes back.
        """
        self._folder = folder
        self._now = now
        self._heads: Lru[_Key, IntentHead] = Lru(capacity)
        self._missing: Lru[_Key, float] = Lru(_MISSES)
        self._reading: dict[_Key, asyncio.Task[IntentHead | None]] = {}

    async def load(self, principal: Principal, agent: str, digest: str) -> IntentHead | None:
        """The head of that digest, or None."""
        key = (principal.tenant, agent, digest)
        head = self._heads.get(key)
        if head is not None:
            return head
        missed = self._missing.get(key)
        if missed is not None and self._now() < missed + MISSING_FOR_S:
            return None
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read(key))
        return await asyncio.shield(reading)  # others may wait for the same file

    async def save(self, principal: Principal, agent: str, head: IntentHead) -> None:
        """Writes a head under its version; one of that version is replaced.

        Raises:
            OSError: it cannot be written.
        """
        await asyncio.to_thread(write, self.path(principal.tenant, agent, head.version), artefact.dump(head))

    def path(self, tenant: str, agent: str, digest: str) -> Path:
        """Where a head's file is, whether it is there or not."""
        return self._folder / file_name(tenant) / file_name(agent) / f"{file_name(digest)}.npz"

    async def _read(self, key: _Key) -> IntentHead | None:
        try:
            head = await asyncio.to_thread(read, self.path(*key))
        finally:
            del self._reading[key]
        if head is None:
            self._missing.put(key, self._now())
        else:
            self._heads.put(key, head)
            self._missing.drop(key)
        return head


def file_name(name: str) -> str:
    """A file name for any text: the text where it is plain, else `=` and its SHA-256, which no plain text equals."""
    return name if _PLAIN.fullmatch(name) else "=" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def read(path: Path) -> IntentHead | None:
    """The head in a file. None: there is no file, or it holds no head, which is logged."""
    try:
        head = artefact.load(path.read_bytes())
        if head.version != path.stem:
            raise artefact.BadArtefact(f"it is version {head.version}")
    except FileNotFoundError:
        return None
    except (artefact.BadArtefact, OSError) as error:
        structlog.get_logger(__name__).warning("intent model is not used", file=str(path), error=str(error))
        return None
    return head


def write(path: Path, content: bytes) -> None:
    """Writes a file so that it is seen whole or not at all, and survives a power cut once this returns.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
