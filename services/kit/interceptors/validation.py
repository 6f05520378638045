"""No handler sees a request that breaks its contract: it is decoded here and held against its protovalidate rules."""

from typing import Any

import protovalidate
from google.protobuf.message import DecodeError, Message

from services.kit.call import Call
from services.kit.chain import Interceptor, Method, Proceed
from services.kit.errors import InvalidArgument
from services.kit.wire import field_with_bad_text

_MOST = 16


def validation() -> Interceptor:
    """Decodes and validates each request."""
    validator = protovalidate.Validator()

    async def validated(call: Call, method: Method, proceed: Proceed) -> Any:
        call.request = check(validator, decode(call.body, method.request_type))
        call.body = b""
        return await proceed(call)

    return validated


def decode(body: bytes, request_type: type[Message]) -> Message:
    """The request in `body`.

    Raises:
        InvalidArgument: it is no such message; names the field when its text is not UTF-8.
    """
    try:
        return request_type.FromString(body)
    except DecodeError:
        field = field_with_bad_text(body, request_type.DESCRIPTOR)
        if field is None:
            raise InvalidArgument("the request is not a valid message") from None
        raise InvalidArgument(f"{field}: must be UTF-8 text", fields={field: "must be UTF-8 text"}) from None


def check(validator: protovalidate.Validator, request: Message) -> Message:
    """The request, if it keeps its rules.

    Raises:
        InvalidArgument: it does not; names each field and what is wrong with it.
    """
    try:
        validator.validate(request)
    except protovalidate.ValidationError as error:
        # The first few: a list of a thousand bad items would make trailers that no peer accepts.
        wrong = {path(violation): violation.proto.message for violation in error.violations[:_MOST]}
        message = "; ".join(f"{field}: {text}" if field else text for field, text in wrong.items())
        raise InvalidArgument(message, fields=wrong) from None
    return request


def path(violation: protovalidate.Violation) -> str:
    """The field a violation is about, as `messages[2].content`. Empty: the whole message."""
    text = ""
    field = violation.proto.field
    for element in field.elements if field else ():
        text += f".{element.field_name}" if text else element.field_name
        if element.subscript is not None:
            text += f"[{element.subscript.value}]"
    return text
