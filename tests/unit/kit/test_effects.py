import pytest

from services.kit.effects import effect_key, is_key_of

KEY = effect_key(2, 0, "refund", '{"order": "1007"}')


def test_a_key_names_step_index_tool_and_arguments():
    others = [
        effect_key(1, 0, "refund", '{"order": "1007"}'),
        effect_key(2, 1, "refund", '{"order": "1007"}'),
        effect_key(2, 0, "donate", '{"order": "1007"}'),
        effect_key(2, 0, "refund", '{"order": "1008"}'),
    ]
    assert len({KEY, *others}) == 5
    assert KEY.startswith("2.0.")
    assert effect_key(2, 0, "refund", '{"order": "1007"}') == KEY


def test_a_key_is_known_to_be_of_its_tool_and_arguments():
    assert is_key_of(KEY, "refund", '{"order": "1007"}')


@pytest.mark.parametrize(
    ("key", "tool", "arguments"),
    [
        (KEY, "refund", '{"order": "1008"}'),
        (KEY, "refund", '{"order":"1007"}'),
        (KEY, "refun", 'd\n{"order": "1007"}'),
        (KEY[:-1], "refund", '{"order": "1007"}'),
        ("2.0.", "refund", '{"order": "1007"}'),
        ("k1", "refund", '{"order": "1007"}'),
        ("", "", ""),
    ],
)
def test_and_of_no_other(key, tool, arguments):
    assert not is_key_of(key, tool, arguments)
