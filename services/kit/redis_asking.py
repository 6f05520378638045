"""Asking who serves: again and again while something is wrong, and in one round for all who want to know."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

_GRACE_S = 0.02
"""When most have answered, the others have so long to do so as well."""

_LOOK_S = 15.0
"""After a failure it is asked until all is well, at most so long."""

T = TypeVar("T")


class Asking:
    """Rounds of questions, one at a time."""

    def __init__(
        self, round_: Callable[[], Coroutine[Any, Any, None]], is_well: Callable[[], bool], pause_s: float
    ) -> None:
        """Asks nothing yet.

        Args:
            round_: Asks everybody once, and learns from the answers.
            is_well: Whether nothing is suspected any more.
            pause_s: Seconds between two rounds while something is.
        """
        self._round = round_
        self._is_well = is_well
        self._pause_s = pause_s
        self._asking: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    async def ask(self) -> None:
        """Returns after a round, perhaps one that has begun already."""
        await asyncio.shield(self.begin())

    def begin(self) -> "asyncio.Task[None]":
        """Begins a round, unless one is under way."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._round())
        return self._asking

    def look(self) -> None:
        """Asks from now on, until all is well."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Asks nothing any more."""
        tasks = [task for task in (self._looking, self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        give_up = clock() + _LOOK_S
        while clock() < give_up:
            await self.ask()
            if self._is_well():
                return
            await asyncio.sleep(self._pause_s)


async def answers_of_most(questions: Sequence[Coroutine[Any, Any, T | None]]) -> list[T]:
    """What most of those answer who were asked, and who else is as quick; when fewer do, what they answer."""
    asked = [asyncio.create_task(question) for question in questions]
    found: list[T] = []
    try:
        for coming in asyncio.as_completed(asked):
            answer = await coming
            if answer is not None:
                found.append(answer)
            if len(found) * 2 > len(asked):
                done, _ = await asyncio.wait(asked, timeout=_GRACE_S)
                return [answer for each in done if (answer := each.result()) is not None]
        return found
    finally:
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
