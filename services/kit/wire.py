"""Reads protobuf's wire format where the decoder only says no."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MOST_FIELDS = 4_000
_MOST_LEVELS = 100
"""As deep as protobuf itself reads."""


def field_with_bad_text(body: bytes, descriptor: Any) -> str | None:
    """Path of the first string field whose bytes are not UTF-8, as `agent.name`. None: there is none.

    The decoder refuses such a message without saying which field it was. Only the first 4,000 fields are looked at,
    and no deeper than 100 levels; of their bytes each text is read once, and nothing is copied for its nesting.
    Source of the format: protobuf's encoding guide.
    """
    return _search(body, 0, len(body), descriptor, iter(range(_MOST_FIELDS)), _MOST_LEVELS)


def _search(body: bytes, position: int, end: int, descriptor: Any, fields: Iterator[int], levels: int) -> str | None:
    while levels and position < end and next(fields, None) is not None:
        tag, position = _varint(body, position, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, position = _varint(body, position, end)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        elif kind == _LENGTH:
            size, position = _varint(body, position, end)
            stop = min(position + size, end)
            found = _bad_text(body, position, stop, descriptor.fields_by_number.get(number), fields, levels)
            if found is not None:
                return found
            position = stop
        else:
            return None
    return None


def _bad_text(body: bytes, position: int, end: int, field: Any, fields: Iterator[int], levels: int) -> str | None:
    if field is None:
        return None
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            body[position:end].decode()
        except UnicodeDecodeError:
            return str(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
        inner = _search(body, position, end, field.message_type, fields, levels - 1)
        if inner is not None:
            return f"{field.name}.{inner}"
    return None


def _varint(body: bytes, position: int, end: int) -> tuple[int, int]:
    """The number at `position` and the position after it. A truncated one ends at the end."""
    value = shift = 0
    while position < end:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift > 63:
            break
    return value, position
