"""An orchestrator whose runs can be lost, `python -m tests.support.unlogged`: to measure against what the log costs.

It keeps no record, no log and no checkpoint: nothing is written between the beginning of a turn and its end. Only the
one entry that the contract wants with a turn's end is left. There is no setting for that; this composition is in no
image.
"""

import runpy
from collections.abc import Sequence

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.errors import ServiceError
from services.orchestrator import app
from services.orchestrator.adapters.memory import MemoryTurns
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.codec import EventCodec
from services.orchestrator.domain.agent import Message
from services.orchestrator.domain.run import Next, Record, Request, Stop, Turn
from services.orchestrator.domain.turn import Progress

_ENDED = (b"ended",)


class UnkeptLog(RedisRunLog):
    """What is appended is nowhere but in the process that did it."""

    async def append(
        self, principal: Principal, turn: Turn, first_sequence: int, entries: Sequence[bytes], checkpoint: bytes = b""
    ) -> Stop:
        """Does nothing."""
        return Stop.NO

    async def hold(self, runs: Sequence[tuple[Principal, Turn]]) -> list[Stop | ServiceError]:
        """Does nothing: a turn that is measured is over before its lease."""
        return [Stop.NO for _ in runs]


class UnkeptTurns(MemoryTurns):
    """Turns that nobody could go on with."""

    async def begin_turn(
        self, request: Request, digest: bytes, lease_s: float, record: bytes = b"", wanted: Amounts = NO_AMOUNTS
    ) -> Turn:
        """Begins a turn without a record."""
        return await super().begin_turn(request, digest, lease_s, wanted=wanted)

    async def commit_turn(
        self,
        turn: Turn,
        messages: Sequence[Message],
        last: Sequence[bytes],
        sequence: int,
        spent: Amounts = NO_AMOUNTS,
    ) -> Next | None:
        """Ends a turn whose log has one entry."""
        return await super().commit_turn(turn, messages, _ENDED, 1, spent)

    async def abandon_turn(
        self, turn: Turn, last: Sequence[bytes], sequence: int, spent: Amounts = NO_AMOUNTS
    ) -> Next | None:
        """Ends a turn whose log has one entry."""
        return await super().abandon_turn(turn, _ENDED, 1, spent)


class UnkeptCodec(EventCodec):
    """Writes events, which watchers are shown, and nothing that is only kept."""

    def encode_record(self, record: Record) -> bytes:
        """Nothing."""
        return b""

    def encode_progress(self, progress: Progress) -> bytes:
        """Nothing."""
        return b""


def main() -> None:
    """Runs the orchestrator without what is kept."""
    vars(app).update(RedisRunLog=UnkeptLog, MemoryTurns=UnkeptTurns, EventCodec=UnkeptCodec)
    runpy.run_module("services.orchestrator", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
