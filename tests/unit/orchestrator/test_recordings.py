"""A run that an earlier release began is gone on with by the one that is here, with the commands of that release."""

import zlib
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from services.kit.errors import CheckpointBroken
from services.orchestrator import checkpoint
from services.orchestrator.domain.run import Answer
from tests.support import recordings

FILES = sorted((Path(__file__).parent / "recordings").glob("*.json"))
STATES = [
    pytest.param(kept, then, id=f"{file.stem}-{place}")
    for file in FILES
    for place, (kept, then) in enumerate(recordings.read(file))
]

NEWEST = STATES[-1].values[0]


@pytest.mark.parametrize(("kept", "then"), STATES)
async def test_a_history_goes_on_as_it_was_recorded(kept, then):
    assert await recordings.resumed(*kept) == then


def test_the_recordings_reach_from_the_first_checkpoint_to_the_whole_answer():
    kinds = {command[0] for state in STATES for command in state.values[1][0]}
    assert kinds == {"understand", "search", "ask", "run"}
    commands = [len(state.values[1][0]) for state in STATES]
    assert commands == sorted(commands, reverse=True)
    assert commands[-1] < commands[0]


async def test_control_other_commands_are_seen(monkeypatch):
    (kept, then) = STATES[0].values
    monkeypatch.setattr(recordings, "AGENT", replace(recordings.AGENT, knowledge=None))
    assert await recordings.resumed(*kept) != then


async def test_the_newest_recording_has_every_field_that_is_kept():
    """Where this fails, what is kept has changed: record it beside the others (CONTRIBUTING.md)."""
    written = (await recordings.states())[-1]
    assert [names(data) for data in written[:2]] == [names(data) for data in NEWEST[:2]]


@pytest.mark.parametrize(("read", "kept"), [(checkpoint.read_record, 0), (checkpoint.read_progress, 1)])
def test_a_field_that_a_later_release_added_anywhere_is_passed_over(read, kept):
    changed = sealed(checkpoint.FORMAT, orjson.dumps(extended(orjson.loads(NEWEST[kept][5:]))))
    assert changed.count(b'"later"') >= 1 + 4 * kept
    assert read(changed) == read(NEWEST[kept])


def test_a_field_that_a_later_release_added_to_an_answer_is_passed_over():
    answer = Answer(result_json="{}", tool_call_id="call_1_0")
    changed = orjson.dumps(extended(orjson.loads(checkpoint.write_answer(answer))))
    assert checkpoint.read_answer(changed) == answer


def test_a_field_that_a_later_release_left_out_is_its_default():
    data = NEWEST[1][5:]
    changed = data.replace(b',"failures":0', b"")
    assert changed != data
    assert checkpoint.read_progress(sealed(checkpoint.FORMAT, changed)) == checkpoint.read_progress(NEWEST[1])


@pytest.mark.parametrize("data", [b"\0", b"\0" * 4, b"\0" * 5])
def test_zeros_are_no_record(data):
    with pytest.raises(CheckpointBroken):
        checkpoint.read_record(data)


@pytest.mark.parametrize(("read", "kept"), [(checkpoint.read_record, 0), (checkpoint.read_progress, 1)])
def test_what_another_format_keeps_is_refused_by_its_number(read, kept):
    with pytest.raises(CheckpointBroken, match=f"of format {checkpoint.FORMAT + 1}"):
        read(sealed(checkpoint.FORMAT + 1, NEWEST[kept][5:]))


def extended(value):
    """What is kept, with one more field wherever there are fields."""
    if isinstance(value, dict):
        return {"later": 1} | {name: extended(each) for name, each in value.items()}
    return [extended(each) for each in value] if isinstance(value, list) else value


def names(data):
    """The fields of what is kept, and those of what is in them."""

    def of(value):
        if isinstance(value, dict):
            return {name: of(each) for name, each in value.items()}
        return of(value[0]) if value and isinstance(value, list) else None

    return of(orjson.loads(data[5:]))


def sealed(number, data):
    kept = bytes([number]) + data
    return zlib.crc32(kept).to_bytes(4) + kept
