import json

import pytest

from services.kit.errors import ToolResponseTooLarge
from services.toolexec.core.answer import read_answer
from services.toolexec.domain import HttpCall, HttpResponse
from tests.support.cpu import within


def call(limit: int = 65_536, **response: str) -> HttpCall:
    return HttpCall("GET", "crm", "/", response, limit, idempotency_key=False)


def response(body: bytes, content_type: str = "application/json", status: int = 200, truncated: bool = False):
    return HttpResponse(status, content_type, body, truncated, "")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\x89PNG", "image/png"),
        (b"{}", ""),
        (b"{}", "application/octet-stream"),
        (b"{}", "application/jsonp"),
        (b"{", "application/json"),
        (b'{"a": NaN}', "application/json"),
        (b'{"a": 1, "a": 2}', "application/json"),
        (b"[" * 101 + b"]" * 101, "application/json"),
        (b"[" * 60_000, "application/json"),
    ],
)
def test_an_answer_of_no_use_is_an_error_the_model_can_read(body, content_type):
    answer = read_answer(call(), response(body, content_type))
    assert answer.is_error
    assert len(json.loads(answer.result_json)["error"]) > 10


def test_text_where_json_was_expected_is_an_error():
    assert read_answer(call(a="/a"), response(b"hello", "text/plain")).is_error


def test_a_good_answer_that_was_cut_is_too_large():
    with pytest.raises(ToolResponseTooLarge):
        read_answer(call(10), response(b"0123456789", "text/plain", truncated=True))


def test_an_answer_that_grows_by_its_mapping_is_too_large():
    body = json.dumps({"a": "x" * 60_000}).encode()
    with pytest.raises(ToolResponseTooLarge):
        read_answer(call(**{f"n{i}": "/a" for i in range(32)}), response(body))


@pytest.mark.parametrize("status", [100, 199, 300, 304, 400, 404, 429, 500, 503])
def test_another_status_is_an_error_with_its_body(status):
    answer = read_answer(call(a="/a"), response(b'{"reason": "unknown"}', status=status))
    assert answer.is_error
    assert json.loads(answer.result_json) == {"status": status, "body": {"reason": "unknown"}}


def test_the_body_of_an_error_is_cut():
    answer = read_answer(call(), response(b'{"a": "' + b"x" * 60_000, status=500, truncated=True))
    assert answer.is_error
    assert len(answer.result_json) < 5_000


def test_an_error_with_broken_json_keeps_its_text():
    answer = read_answer(call(), response(b'{"a"', status=500))
    assert json.loads(answer.result_json) == {"status": 500, "body": '{"a"'}


@pytest.mark.parametrize("content_type", ["application/json", "application/problem+json", "application/vnd.api+json"])
def test_json_is_passed_on(content_type):
    answer = read_answer(call(), response('{"a": [1, 2.5, null, true, "ü"]}'.encode(), content_type))
    assert answer.result_json == '{"a":[1,2.5,null,true,"ü"]}'
    assert not answer.is_error


def test_text_becomes_a_json_string():
    assert read_answer(call(), response(b'say "hi"\n', "text/html")).result_json == '"say \\"hi\\"\\n"'


def test_no_body_is_null():
    assert read_answer(call(), response(b"", "", 204)).result_json == "null"


def test_bytes_that_are_no_utf8_are_replaced():
    assert read_answer(call(), response(b"a\xff\xfeb", "text/plain")).result_json == '"a\ufffd\ufffdb"'
    assert read_answer(call(), response(b'{"a": "\xff"}')).result_json == '{"a":"\ufffd"}'


def test_a_lone_surrogate_is_replaced():
    assert read_answer(call(), response(b'{"a": "\\ud800"}')).result_json == '{"a":"?"}'


def test_the_answer_is_narrowed_by_pointers():
    body = b'{"order": {"state": "sent", "lines": [{"n": 1}, {"n": 2}]}, "a/b": {"c~d": 3}, "": 4, "secret": "x"}'
    pointers = {
        "state": "/order/state",
        "second": "/order/lines/1/n",
        "odd": "/a~1b/c~0d",
        "empty": "/",
        "absent": "/order/none",
        "beyond": "/order/lines/2",
        "leading": "/order/lines/01",
        "minus": "/order/lines/-",
        "within": "/order/state/x",
        "wrong": "order",
    }
    answer = read_answer(call(**pointers), response(body))
    assert json.loads(answer.result_json) == {
        "state": "sent",
        "second": 2,
        "odd": 3,
        "empty": 4,
        **dict.fromkeys(["absent", "beyond", "leading", "minus", "within", "wrong"]),
    }


def test_the_whole_answer_has_the_empty_pointer():
    assert read_answer(call(all=""), response(b"[1]")).result_json == '{"all":[1]}'


def test_reading_the_largest_answer_takes_milliseconds():
    body = json.dumps([{"id": i, "name": "x" * 50} for i in range(10_000)]).encode()
    with within(0.2):
        read_answer(call(1_048_576), response(body))
