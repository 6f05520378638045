"""Which part of a history an agent is shown."""

from collections.abc import Sequence

from services.memory.domain import Message, Role

_TOKENS_EACH = 4
_BYTES_A_TOKEN = 4


def estimate_tokens(message: Message) -> int:
    """A quarter of its UTF-8 bytes, rounded up, plus 4: what turn.proto promises."""
    return -(-message.size // _BYTES_A_TOKEN) + _TOKENS_EACH


def window(history: Sequence[Message], max_messages: int, max_tokens: int) -> Sequence[Message]:
    """The newest messages that fit, oldest first, from the first user message among them on.

    Args:
        history: Oldest first.
        max_messages: How many at most.
        max_tokens: How many tokens at most, by `estimate_tokens`. The first message that does not fit ends the window.
    """
    start, tokens = len(history), 0
    while start > 0 and len(history) - start < max_messages:
        tokens += estimate_tokens(history[start - 1])
        if tokens > max_tokens:
            break
        start -= 1
    while start < len(history) and history[start].role is not Role.USER:
        start += 1
    return history[start:]
