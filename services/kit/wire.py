"""Reads protobuf's wire format where the decoder only says no."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def field_with_bad_text(body: bytes, descriptor: Any) -> str | None:
    """Path of the first string field whose bytes are not UTF-8, as `agent.name`. None: there is none.

    The decoder refuses such a message without saying which field it was.
    Source of the format: protobuf's encoding guide.
    """
    position = 0
    while position < len(body):
        tag, position = _varint(body, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, position = _varint(body, position)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind == _LENGTH:
            size, position = _varint(body, position)
            found = _bad_text(body[position : position + size], descriptor.fields_by_number.get(number))
            if found is not None:
                return found
            position += size
        else:
            return None
    return None


def _bad_text(value: bytes, field: Any) -> str | None:
    if field is None:
        return None
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            value.decode()
        except UnicodeDecodeError:
            return str(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
        inner = field_with_bad_text(value, field.message_type)
        if inner is not None:
            return f"{field.name}.{inner}"
    return None


def _varint(body: bytes, position: int) -> tuple[int, int]:
    """The number at `position` and the position after it. A truncated one ends at the end."""
    value = shift = 0
    while position < len(body):
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 63:
            break
    return value, position
