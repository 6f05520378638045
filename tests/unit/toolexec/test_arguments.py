import pytest

from services.kit.errors import InvalidToolArguments
from services.toolexec.core.arguments import read_arguments
from tests.support.cpu import within


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "null",
        "[]",
        '"text"',
        "1",
        "{} {}",
        "{'a': 1}",
        '{"a": 1,}',
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 301 + "}",
        '{"a": 1, "a": 2}',
        '{"b": {"a": 1, "a": 1}}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": "\n"}',
        '{"a": ' * 33 + "1" + "}" * 33,
        '{"a": ' + "[" * 32 + "]" * 32 + "}",
        '{"a": ' + "[" * 60_000,
        '{"a": "' + "x" * 65_536 + '"}',
        '{"a": "' + "ü" * 32_768 + '"}',
        "\ufeff{}",
    ],
)
def test_what_is_no_bounded_json_object_is_refused(text):
    with pytest.raises(InvalidToolArguments) as caught:
        read_arguments(text)
    assert list(caught.value.fields) == ["arguments"]
    assert len(caught.value.message) < 200


def test_no_text_is_no_arguments():
    assert read_arguments("") == {}


def test_thirty_two_levels_are_allowed():
    text = '{"a": ' * 32 + "1" + "}" * 32
    value = read_arguments(text)
    for _ in range(32):
        value = value["a"]
    assert value == 1


def test_brackets_within_text_are_no_levels():
    inside = "[{" * 100 + '\\"[[' + "\\\\"
    assert read_arguments('{"a": "' + inside + '", "b": [1]}')["b"] == [1]


def test_escapes_of_whole_characters_are_kept():
    assert read_arguments('{"a": "\\ud83d\\ude00\\u0000"}') == {"a": "😀\x00"}


@pytest.mark.parametrize("text", ['{"a":"' + '\\"[' * 21_000, "[" * 65_536, '"' * 65_536, '{"a":"' + "\\" * 65_000])
def test_reading_hostile_text_takes_milliseconds(text):
    with within(0.05), pytest.raises(InvalidToolArguments):
        read_arguments(text)
