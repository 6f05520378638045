"""Dead letters: the contract on one side, `core/dead_letters.py` on the other."""

from google.protobuf import timestamp_pb2

from myriad.orchestrator.v1 import queue_pb2 as pb
from services.kit import status
from services.kit.call import current_principal
from services.orchestrator.core.dead_letters import DeadLetterBox
from services.orchestrator.domain.run import DeadLetter


class Letters:
    """What the servicer is asked of dead letters."""

    def __init__(self, box: DeadLetterBox) -> None:
        """Answers from `box`."""
        self._box = box

    async def page(self, request: pb.ListDeadLettersRequest) -> pb.ListDeadLettersResponse:
        """A page of letters."""
        found, token = await self._box.page(current_principal(), request.page_size, request.page_token)
        return pb.ListDeadLettersResponse(dead_letters=map(_write, found), next_page_token=token)

    async def redrive(self, request: pb.RedriveDeadLetterRequest) -> pb.RedriveDeadLetterResponse:
        """A new run in a letter's place."""
        return pb.RedriveDeadLetterResponse(run_id=await self._box.redrive(current_principal(), request.run_id))


def _write(letter: DeadLetter) -> pb.DeadLetter:
    time = timestamp_pb2.Timestamp()
    time.FromMilliseconds(letter.time_ms)
    return pb.DeadLetter(
        run_id=letter.run_id,
        user=letter.user,
        queue_class=f"QUEUE_CLASS_{letter.record.queue or 'SIMPLE'}",
        attempts=letter.attempts,
        error=status.to_proto(letter.error),
        time=time,
    )
