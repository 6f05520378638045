from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from myriad.memory.v1 import memory_pb2
from services.kit.wire import field_with_bad_text
from tests.support.cpu import within

CREATE = memory_pb2.CreateSessionRequest.DESCRIPTOR
PUT = memory_pb2.PutAgentRequest.DESCRIPTOR


def test_the_field_with_bad_text_is_named():
    assert field_with_bad_text(b"\x0a\x02\xff\xfe", CREATE) == "agent"
    assert field_with_bad_text(b"\x0a\x01a\x12\x01\xff", CREATE) == "request_id"


def test_a_field_within_a_field_is_named_by_its_path():
    inner = b"\x0a\x01a\x2a\x02\xc3\x28"
    assert field_with_bad_text(b"\x0a" + bytes([len(inner)]) + inner, PUT) == "agent.persona"


def test_good_text_names_nothing():
    request = memory_pb2.PutAgentRequest(agent={"name": "aura", "persona": "zoë"})
    assert field_with_bad_text(request.SerializeToString(), PUT) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_it(body):
    field_with_bad_text(body, PUT)


def test_what_nests_for_ever_is_left_unsearched():
    body = b"\x1a\x02\xff\xfe"  # a text, within lists within lists
    for _ in range(2_000):
        items = b"\x0a" + _varint(len(body)) + body
        body = b"\x32" + _varint(len(items)) + items
    assert field_with_bad_text(body, struct_pb2.Value.DESCRIPTOR) is None


class Counted(bytes):
    """Counts the bytes that are copied out of it."""

    copied = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if not isinstance(key, slice):
            return found
        Counted.copied += len(found)
        return Counted(found)


def test_what_is_nested_deep_is_copied_once_at_most():
    body = _field(3, b"x" * 10_000 + b"\xff")
    for _ in range(45):
        body = _field(6, _field(1, body))  # a text, within lists within lists
    Counted.copied = 0
    path = field_with_bad_text(Counted(body), struct_pb2.Value.DESCRIPTOR)
    assert path == "list_value.values." * 45 + "string_value"
    assert 10_000 < Counted.copied <= len(body)


@given(st.binary(max_size=30), st.integers(0, 60))
def test_a_field_that_claims_more_than_there_is_ends_where_its_message_does(inner, claimed):
    body = b"\x0a" + bytes([len(inner) + 2]) + b"\x0a" + bytes([claimed]) + inner + b"\x0a\x01\xff"
    found = field_with_bad_text(body, PUT)
    if claimed > len(inner):
        assert found != "agent"
        assert (found == "agent.name") is not _is_text(inner)


def test_a_million_fields_take_no_longer_than_a_few_thousand():
    with within(0.1):
        assert field_with_bad_text(b"\x08\x01" * 1_000_000 + b"\x0a\x01\xff", CREATE) is None


def _is_text(value):
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _field(number, value):
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value):
    return bytes([value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14])
