"""Hints at runs: what an item carries, and what is none."""

import pytest

from services.kit.hints import RunHint

HINT = RunHint("acme/{x}", "al\u0142ce", "s-1", 7)


def test_a_hint_is_read_as_it_was_put():
    item = HINT.item(priority=9, due_ms=5)
    assert (item.tenant, item.priority, item.due_ms) == ("acme/{x}", 9, 5)
    assert RunHint.read(item.body) == HINT


def test_a_run_has_one_item_that_is_due_and_one_for_each_time_it_is_due_later():
    assert HINT.item().id == HINT.item(priority=1).id
    assert HINT.item(due_ms=9).id == HINT.item(due_ms=9).id
    others = [HINT.item(due_ms=9), HINT.item(due_ms=8), RunHint("acme/{x}", "al\u0142ce", "s-1", 8).item()]
    assert len({HINT.item().id, *(item.id for item in others)}) == 4


def test_a_run_has_one_reminder_for_each_thing_that_it_waits_for():
    reminder = HINT.reminder("call_1_0", 500, priority=9)
    assert (reminder.id, reminder.after_ms, reminder.priority) == (HINT.reminder_id("call_1_0"), 500, 9)
    assert RunHint.read(reminder.body) == HINT
    other = RunHint("acme/{x}", "al\u0142ce", "s-1", 8)
    others = [HINT.reminder_id("call_1_1"), other.reminder_id("call_1_0"), HINT.item().id, HINT.item(due_ms=9).id]
    assert len({HINT.reminder("call_1_0", 900).id, *others}) == 5


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"null", b"{}", b"[]", b'["t","u","s",-1]', b'["t","u","s",1.5]', b'["t","u","s",1,2]']
)
def test_what_is_no_hint_is_refused(body):
    with pytest.raises(ValueError):
        RunHint.read(body)
