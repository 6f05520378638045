"""What is kept of a run is read as it was written."""

from services.orchestrator.checkpoint import read_progress, read_record, write_progress, write_record
from services.orchestrator.domain.agent import Message, Role, ToolCall
from services.orchestrator.domain.run import Record
from services.orchestrator.domain.turn import Citation, Complexity, Entity, Progress, Understanding, Usage


def test_what_is_kept_is_read_as_it_was():
    record = Record("hello\n", "aura", 3, ("admin", "user"))
    assert read_record(write_record(record)) == record
    progress = Progress(
        sequence=4,
        begun=True,
        understanding=Understanding(
            (("greeting", 0.5),), False, (Entity("order", "1007", 2, 6, "1007"),), Complexity(0.5, 1.0), "en", [0.25]
        ),
        facts=(Citation("k", "d", "t", "c", 0, 3, "text", 0.5),),
        step=1,
        calls=(ToolCall("call_1_0", "find", "{}"),),
        answered=0,
        started=True,
        messages=(Message(Role.ASSISTANT, "said", (ToolCall("call_1_0", "find", "{}"),)),),
        said="said",
        usage=Usage(1, 2, 3, 4, 0.5),
        bad_calls=1,
    )
    read = read_progress(write_progress(progress))
    assert read.understanding.embedding == ()
    progress.understanding = read.understanding
    assert read == progress
    assert read_progress(b"") == Progress()
