"""The arguments of a call, from text to values."""

import json
from typing import Any

from services.kit.errors import InvalidToolArguments
from services.toolexec.core import json_text

MAX_BYTES = 65_536
MAX_DEPTH = 32


def read_arguments(text: str) -> dict[str, Any]:
    """The members of a JSON object; of an empty text, none.

    Raises:
        InvalidToolArguments: not one JSON object, over 64 KiB, deeper than 32 levels, a member named twice, a number
            that is not finite, or text that UTF-8 cannot carry.
    """
    if not text:
        return {}
    if len(text.encode()) > MAX_BYTES:
        raise wrong(f"are larger than {MAX_BYTES} bytes")
    try:
        value = json_text.read(text, MAX_DEPTH)
        if "\\" in text:  # only an escape can make a surrogate
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise wrong("hold a lone surrogate") from None
    except ValueError as error:
        raise wrong(f"are wrong: the text {error}") from None
    if not isinstance(value, dict):
        raise wrong("must be a JSON object")
    return value


def wrong(what: str, *, argument: str = "") -> InvalidToolArguments:
    """The error that says what is wrong with the arguments, or with the one named."""
    field = f"arguments.{argument}" if argument else "arguments"
    message = f"the argument {argument} {what}" if argument else f"the arguments {what}"
    return InvalidToolArguments(message, fields={field: what})
