"""Hostile bytes made from a contract: messages as its descriptors describe them, then broken as wires and people do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from buf.validate import validate_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.leaks import leaks

Known = Mapping[str, Sequence[Any]]
"""Values worth trying by field, `GetSessionRequest.session_id`, or by the field's bare name: ids that exist, say.

Of a repeated field each is an item, or, when it is a list, all of its items.
"""

_DEPTH = 4
_LONGEST = 262_144
"""What Envoy takes at most."""
_ODD_INTEGERS = (0, 1, -1, 7, 100, 101, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
_ODD_NUMBERS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e9, 5e-324, 1.7e308, float("inf"), float("-inf"), float("nan"))
_ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "\x07",
    "a",
    "-",
    "..",
    "*",
    "{x}",
    'x" or tenant != "',
    "\u202e",
    "\U0010ffff",
    "é" * 80,
)
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_HUGE = b"\xff" * 9 + b"\x01"
_ENDLESS = b"\xff" * 16


def requests(descriptor: Descriptor, known: Known) -> st.SearchStrategy[bytes]:
    """Bytes sent as a message of this type: one in four as they should be, the rest broken one to three times."""
    whole = messages(descriptor, known).map(lambda message: message.SerializeToString())
    broken = st.builds(_break, whole, st.lists(_breaks(descriptor), min_size=1, max_size=3))
    return st.one_of(whole, broken, broken, st.one_of(broken, st.binary(max_size=64)))


def examples(strategy: st.SearchStrategy[bytes], count: int, number: int = 0) -> list[bytes]:
    """So many examples; the same `number` makes the same ones."""
    made: list[bytes] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(example: bytes) -> None:
        made.append(example)

    keep()
    return made


def messages(descriptor: Descriptor, known: Known, depth: int = _DEPTH) -> st.SearchStrategy[Message]:
    """Messages of this type: most fields within their rules, some beside them."""

    fields = list(descriptor.fields)
    needed = [_is_needed(field) for field in fields]

    @st.composite
    def message(draw: st.DrawFn) -> Message:
        made: Message = GetMessageClass(descriptor)()
        for field, is_needed in zip(fields, needed, strict=True):
            if draw(st.integers(0, 19)) < (19 if is_needed else 8 if depth else 0):
                _set(draw, made, field, known, depth)
        return made

    return message()


def wrong_with(code: str, status: Status, allowed: Sequence[str]) -> str:
    """What an answer to a hostile request breaks of what each must keep. Empty: nothing.

    Args:
        code: Name of the gRPC code.
        status: The status with its details; of an OK, empty.
        allowed: Codes that a caller may get.
    """
    said = f"{code}: {status.message}"
    if code not in allowed:
        return f"not allowed: {said}"
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    if code != "OK" and not any(
        error_details_pb2.ErrorInfo.FromString(info.value).domain == "myriad" for info in infos
    ):
        return f"no reason of ours: {said}"
    found = leaks(told(json_format.MessageToDict(status, preserving_proto_field_name=True)))
    return f"tells {found}: {said}" if found else ""


def told(body: Mapping[str, Any]) -> str:
    """What a `google.rpc.Status`, as JSON, tells a person."""
    fields = [each for detail in body.get("details", ()) for each in detail.get("field_violations", ())]
    texts = [body.get("message", ""), *(f"{each.get('field', '')} {each['description']}" for each in fields)]
    return "\n".join(texts)


def _is_needed(described: FieldDescriptor) -> bool:
    rules = described.GetOptions().Extensions[validate_pb2.field]
    numbers = (rules.uint32, rules.uint64)
    return bool(
        rules.required
        or rules.string.min_len
        or rules.string.pattern
        or rules.repeated.min_items
        or rules.enum.not_in
        or any(number.HasField("gt") for number in numbers)
    )


def _set(draw: st.DrawFn, made: Any, field: FieldDescriptor, known: Known, depth: int) -> None:
    value = _value(field, known, depth)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entries = field.message_type.fields_by_name
        keys = draw(st.lists(_value(entries["key"], known, depth), max_size=3))
        for key in keys:
            if entries["value"].message_type is None:
                getattr(made, field.name)[key] = draw(_value(entries["value"], known, depth))
            else:
                getattr(made, field.name)[key].CopyFrom(draw(_value(entries["value"], known, depth)))
    elif field.is_repeated:
        whole = [values for values in _known(field, known) if isinstance(values, list)]
        values = st.sampled_from(whole) if whole else st.lists(value, min_size=1, max_size=3)
        getattr(made, field.name).extend(draw(values))
    elif field.message_type is not None:
        getattr(made, field.name).CopyFrom(draw(value))
    else:
        setattr(made, field.name, draw(value))


def _value(field: FieldDescriptor, known: Known, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, known, depth - 1)
    values = _known(field, known)
    if values:
        return st.sampled_from(values)
    if field.enum_type is not None:
        return st.sampled_from([*(value.number for value in field.enum_type.values)] * 3 + [-1, 77, 2**31 - 1])
    return _scalar(field)


def _known(field: FieldDescriptor, known: Known) -> Sequence[Any]:
    owner = field.containing_type
    return known.get(f"{owner.name if owner else ''}.{field.name}") or known.get(field.name) or ()


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.cpp_type in _INTEGERS:
        lowest, highest = _INTEGERS[field.cpp_type]
        odd = [number for number in _ODD_INTEGERS if lowest <= number <= highest]
        return _mostly(st.integers(1, 20), st.sampled_from(odd))
    if field.cpp_type in {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}:
        return _mostly(st.floats(0, 1, width=32), st.sampled_from(_ODD_NUMBERS))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(min_size=1, max_size=40)
    return _text(field)


def _text(field: FieldDescriptor) -> st.SearchStrategy[str]:
    rules = field.GetOptions().Extensions[validate_pb2.field]
    pattern = (rules.repeated.items.string if field.is_repeated else rules.string).pattern
    odd = st.sampled_from(_ODD_TEXTS)
    if pattern:
        fits = st.from_regex(pattern.replace("\\S", "[!-~]"), fullmatch=True).map(lambda text: text[:64])
        return _mostly(fits, odd)
    return _mostly(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), odd)


def _mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One in eight is odd: a request of ten fields has a fair chance of none."""
    return st.integers(0, 7).flatmap(lambda chance: usual if chance else odd)


def field(number: int, value: bytes) -> bytes:
    """As protobuf writes a field of text, bytes or a message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


Break = Callable[[bytes], bytes]


def _break(body: bytes, breaks: Sequence[Break]) -> bytes:
    for each in breaks:
        body = each(body)[:_LONGEST]
    return body


def _breaks(descriptor: Descriptor) -> st.SearchStrategy[Break]:
    """Ways to break a message."""
    position = st.integers(0, 200)
    numbers = st.sampled_from([*(field.number for field in descriptor.fields), 15, 2**29 - 1])
    return st.one_of(
        st.builds(_flipped, position, st.integers(0, 7)),
        st.builds(_cut, position),
        st.builds(_without, position, st.integers(1, 8)),
        st.builds(_with, position, st.sampled_from((_HUGE, _ENDLESS, b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"\x80"))),
        st.builds(_with, position, st.binary(min_size=1, max_size=8)),
        st.builds(_retyped, numbers, st.integers(0, 7), st.binary(max_size=12)),
        st.builds(_sized, numbers, st.sampled_from((2**31 - 1, 2**32 - 1, 2**63 - 1, 1000))),
        st.builds(_nested, numbers, st.sampled_from((10, 99, 101, 1000, 5000))),
        st.builds(_repeated, st.sampled_from((2, 30))),
    )


def _flipped(position: int, bit: int) -> Break:
    def flip(body: bytes) -> bytes:
        if not body:
            return bytes([1 << bit])
        at = position % len(body)
        return body[:at] + bytes([body[at] ^ 1 << bit]) + body[at + 1 :]

    return flip


def _cut(position: int) -> Break:
    return lambda body: body[: position % (len(body) + 1)]


def _without(position: int, count: int) -> Break:
    return lambda body: body[: position % (len(body) + 1)] + body[position % (len(body) + 1) + count :]


def _with(position: int, inserted: bytes) -> Break:
    return lambda body: body[: position % (len(body) + 1)] + inserted + body[position % (len(body) + 1) :]


def _retyped(number: int, kind: int, payload: bytes) -> Break:
    """A field with a wire type of our choice: 3, 4, 6 and 7 are groups and nothing at all."""
    return lambda body: body + varint(number << 3 | kind) + payload


def _sized(number: int, size: int) -> Break:
    """A field that claims to be so long."""
    return lambda body: body + varint(number << 3 | 2) + varint(size) + b"x"


def _nested(number: int, levels: int) -> Break:
    def nest(body: bytes) -> bytes:
        inner = b""
        for _ in range(levels):
            inner = field(number, inner)
        return body + inner

    return nest


def _repeated(times: int) -> Break:
    return lambda body: body * times


def varint(value: int) -> bytes:
    """As protobuf writes a number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
