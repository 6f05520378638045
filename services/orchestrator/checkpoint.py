"""Records and checkpoints: what is kept of a run so that another process can go on with it.

Each is JSON behind a byte that says of which format it is, and the CRC-32 of both: what was damaged on its way is
refused, and not taken for what was written. During a rollout two releases read what the other wrote. So a field that
is not known is passed over, and one that is not there has its default; where that would go wrong, `FORMAT` is raised.
"""

import zlib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import orjson

from services.kit.amounts import NO_AMOUNTS
from services.kit.errors import CheckpointBroken
from services.orchestrator.domain.agent import Message, Role, ToolCall
from services.orchestrator.domain.run import Answer, Record
from services.orchestrator.domain.turn import Citation, Complexity, Entity, Progress, Understanding, Usage

FORMAT = 1
"""What is kept of a run that began under another one is refused, and the run ends."""

_SUM_BYTES = 4


def write_record(record: Record) -> bytes:
    """A record, to be kept."""
    return _sealed(orjson.dumps(record))


def read_record(data: bytes) -> Record:
    """The record that `write_record` wrote.

    Raises:
        CheckpointBroken: it is not what was written, or of another format.
    """
    found = _known(Record, orjson.loads(_opened(data)))
    return Record(**{**found, "roles": tuple(found["roles"])})


def write_progress(progress: Progress) -> bytes:
    """Progress, to be kept. An embedding is left out: it is needed for a moment, and can be made again."""
    if progress.understanding is not None:
        progress = replace(progress, understanding=replace(progress.understanding, embedding=()))
    return _sealed(orjson.dumps(progress))


def read_progress(data: bytes) -> Progress:
    """The progress that `write_progress` wrote. No data: none was made.

    Raises:
        CheckpointBroken: it is not what was written, or of another format.
    """
    if not data:
        return Progress()
    found = _known(Progress, orjson.loads(_opened(data)))
    return Progress(
        **{
            **found,
            "understanding": found["understanding"] and _understanding(found["understanding"]),
            "facts": None
            if found["facts"] is None
            else tuple(Citation(**_known(Citation, each)) for each in found["facts"]),
            "calls": None if found["calls"] is None else _calls(found["calls"]),
            "effects": _calls(found["effects"]),
            "messages": tuple(_message(each) for each in found["messages"]),
            "usage": Usage(**{**_known(Usage, found["usage"]), "remaining": NO_AMOUNTS}),
        }
    )


def write_answer(answer: Answer) -> bytes:
    """An answer, to be kept."""
    return orjson.dumps(answer)


def read_answer(data: bytes) -> Answer:
    """The answer that `write_answer`, or toolexec, wrote."""
    return Answer(**_known(Answer, orjson.loads(data)))


def _understanding(found: Mapping[str, Any]) -> Understanding:
    return Understanding(
        intents=tuple((name, confidence) for name, confidence in found["intents"]),
        out_of_scope=found["out_of_scope"],
        entities=tuple(Entity(**_known(Entity, each)) for each in found["entities"]),
        complexity=Complexity(**_known(Complexity, found["complexity"])),
        language=found["language"],
    )


def _message(found: Mapping[str, Any]) -> Message:
    return Message(Role(found["role"]), found["content"], _calls(found["tool_calls"]), found["tool_call_id"])


def _calls(found: Any) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(**_known(ToolCall, each)) for each in found)


def _known(kind: type[Any], found: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: found[each.name] for each in fields(kind) if each.name in found}


def _sealed(data: bytes) -> bytes:
    kept = bytes([FORMAT]) + data
    return zlib.crc32(kept).to_bytes(_SUM_BYTES) + kept


def _opened(data: bytes) -> bytes:
    kept = data[_SUM_BYTES:]
    if not kept or data[:_SUM_BYTES] != zlib.crc32(kept).to_bytes(_SUM_BYTES):
        raise CheckpointBroken("what was kept of the run is damaged: it cannot go on")
    if kept[0] != FORMAT:
        raise CheckpointBroken(f"what was kept of the run is of format {kept[0]}, and this release reads {FORMAT} only")
    return kept[1:]
