"""Events and records as bytes."""

from typing import Protocol

from services.orchestrator.domain.log import Event
from services.orchestrator.domain.run import Answer, Record
from services.orchestrator.domain.turn import Progress


class Codec(Protocol):
    """Events as entries of a log."""

    def encode(self, run_id: str, sequence: int, event: Event) -> bytes:
        """The entry of an event."""

    def is_last(self, entry: bytes) -> bool:
        """Whether a log ends with this entry."""

    def is_failed(self, entry: bytes) -> bool:
        """Whether an entry says that the run failed."""

    def is_delta(self, entry: bytes) -> bool:
        """Whether an entry is a piece of the answer."""

    def encode_record(self, record: Record) -> bytes:
        """What was asked, to be kept."""

    def decode_record(self, data: bytes) -> Record:
        """What was asked."""

    def decode_answer(self, data: bytes) -> Answer:
        """What a run waited for."""

    def encode_answer(self, answer: Answer) -> bytes:
        """What a run waits for, to be kept."""

    def encode_progress(self, progress: Progress) -> bytes:
        """A checkpoint, to be kept."""

    def decode_progress(self, data: bytes) -> Progress:
        """A checkpoint. Empty data: nothing was done yet."""
