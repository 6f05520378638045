"""What the stores are asked on behalf of somebody: as many round trips, and the same ones, take the same time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from services.kit.call import Principal, current_call
from services.kit.redis import Redis
from services.retrieval.adapters.milvus_client import Milvus

Trip = tuple[str, ...]
LATER = "budget_settle"
"""Made for many together, after they are answered."""


@contextmanager
def trips_of(somebody: Principal) -> Iterator[list[Trip]]:
    """Notes each round trip of a call of somebody's while the block runs: whither, and what is asked there."""
    made: list[Trip] = []

    def note(whither: str, *asked: str) -> None:
        call = current_call()
        if call is None or call.principal is None:
            return
        if not call.method.startswith("/") or any(name.startswith(LATER) for name in asked):  # done by itself
            return
        if (call.principal.tenant, call.principal.user) == (somebody.tenant, somebody.user):
            made.append((whither, *asked))

    replies, wait, call, search = Redis.replies, Redis.wait, Milvus.call, Milvus.search

    async def noted_replies(self: Redis, commands: Sequence[Any], **kw: Any) -> Any:
        note("redis", *(_name(command) for command in commands))
        return await replies(self, commands, **kw)

    async def noted_wait(self: Redis, *command: Any, **kw: Any) -> Any:
        note("redis", _name(command))
        return await wait(self, *command, **kw)

    async def noted_call(self: Milvus, operation: Any) -> Any:
        note("milvus", "call")
        return await call(self, operation)

    async def noted_search(self: Milvus, request: Any) -> Any:
        note("milvus", "search")
        return await search(self, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Redis, "replies", noted_replies)
        patch.setattr(Redis, "wait", noted_wait)
        patch.setattr(Milvus, "call", noted_call)
        patch.setattr(Milvus, "search", noted_search)
        yield made


def _name(command: Sequence[Any]) -> str:
    """A command's name; of a function, its own."""
    return str(command[1] if command[0] in {"FCALL", "FCALL_RO"} else command[0])
