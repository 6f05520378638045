"""Records and checkpoints as JSON: what is kept of a run so that another process can go on with it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from services.orchestrator.domain import (
    Citation,
    Complexity,
    Entity,
    Message,
    Progress,
    Record,
    Role,
    ToolCall,
    Understanding,
    Usage,
)


def write_record(record: Record) -> bytes:
    """A record as JSON."""
    return orjson.dumps(record)


def read_record(data: bytes) -> Record:
    """The record that `write_record` wrote."""
    found = orjson.loads(data)
    return Record(**{**found, "roles": tuple(found["roles"])})


def write_progress(progress: Progress) -> bytes:
    """Progress as JSON. An embedding is left out: it is needed for a moment, and can be made again."""
    if progress.understanding is not None:
        progress = replace(progress, understanding=replace(progress.understanding, embedding=()))
    return orjson.dumps(progress)


def read_progress(data: bytes) -> Progress:
    """The progress that `write_progress` wrote. No data: none was made."""
    if not data:
        return Progress()
    found = orjson.loads(data)
    return Progress(
        **{
            **found,
            "understanding": found["understanding"] and _understanding(found["understanding"]),
            "facts": None if found["facts"] is None else tuple(Citation(**each) for each in found["facts"]),
            "calls": None if found["calls"] is None else _calls(found["calls"]),
            "messages": tuple(_message(each) for each in found["messages"]),
            "usage": Usage(**found["usage"]),
        }
    )


def _understanding(found: Mapping[str, Any]) -> Understanding:
    return Understanding(
        intents=tuple((name, confidence) for name, confidence in found["intents"]),
        out_of_scope=found["out_of_scope"],
        entities=tuple(Entity(**each) for each in found["entities"]),
        complexity=Complexity(**found["complexity"]),
        language=found["language"],
    )


def _message(found: Mapping[str, Any]) -> Message:
    return Message(Role(found["role"]), found["content"], _calls(found["tool_calls"]), found["tool_call_id"])


def _calls(found: Any) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(**each) for each in found)
