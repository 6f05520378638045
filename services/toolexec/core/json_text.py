"""Reads JSON that a stranger wrote: strict, and bounded in depth."""

import json
import math
import re
from typing import Any

_MAX_DIGITS = 300

# The closing quote is optional, so that an unterminated string is passed over once and not once per character.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def read(text: str, max_depth: int) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, nests deeper than `max_depth`, names a member twice, or holds a number that is
            not finite or has over 300 digits. The message says which, and repeats nothing of the text.
    """
    if _deeper_than(max_depth, text):
        raise ValueError(f"nests deeper than {max_depth} levels")
    try:
        return json.loads(
            text,
            object_pairs_hook=_members,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error.msg} at character {error.pos}") from None


def write(value: Any) -> str:
    """The value as compact JSON text that is valid UTF-8; a lone surrogate becomes `?`.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _deeper_than(limit: int, text: str) -> bool:
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    for found in _STRUCTURE.finditer(text):
        match found[0]:
            case "[" | "{":
                depth += 1
                if depth > limit:
                    return True
            case "]" | "}":
                depth -= 1
    return False


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("names a member twice")
    return members


def _refuse_constant(_name: str) -> Any:
    raise ValueError("holds a number that is not finite")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("holds a number that is not finite")
    return value


def _short(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"holds a number of over {_MAX_DIGITS} digits")
    return int(text)
