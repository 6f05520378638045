from hypothesis import given
from hypothesis import strategies as st

from myriad.memory.v1 import memory_pb2
from services.kit.wire import field_with_bad_text

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
