"""What is shown of the log of a run at work in this process, and those who watch it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence


class Shown:
    """The entries that the store has, for all who watch.

    Everyone sees the same entries in the same order. Watchers read the one list from where they are, so a slow one
    costs nothing and holds nobody back.
    """

    def __init__(self, entries: Sequence[bytes] = ()) -> None:
        """Goes on with a log."""
        self.entries = list(entries)
        self._changed = asyncio.Event()
        self._ended = False
        self._lost: Exception | None = None

    @property
    def left(self) -> bool:
        """Whether this process has nothing to do with the run any more: it ended, waits, or goes on elsewhere."""
        return self._ended or self._lost is not None

    def show(self, entries: Sequence[bytes]) -> None:
        """Shows entries, which the store has by now."""
        self.entries.extend(entries)
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self, entries: Sequence[bytes]) -> None:
        """Shows the last entries."""
        self._ended = True
        self.show(entries)

    def lose(self, error: Exception) -> None:
        """Ends every watch with `error`: the log could not be brought to its end here."""
        self._lost = error
        self.show([])

    async def watch(self, after_sequence: int, silence_s: float) -> AsyncGenerator[bytes | None]:
        """Entries after a sequence, those to come included, until the last.

        Args:
            after_sequence: The cursor.
            silence_s: After so many seconds without an entry, yields None.

        Raises:
            Exception: what the run was lost to.
        """
        position = after_sequence
        while True:
            changed = self._changed
            while position < len(self.entries):
                position += 1
                yield self.entries[position - 1]
            if self._lost is not None:
                raise self._lost
            if self._ended:
                return
            try:
                async with asyncio.timeout(silence_s):
                    await changed.wait()
            except TimeoutError:
                yield None
