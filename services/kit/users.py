"""Names of users as the store has them."""


def user_text(user: str) -> bytes:
    """A user's name as the store has it: one that is no text keeps its bytes apart from all others."""
    return user.encode("utf-8", "surrogatepass")


def read_user(text: bytes) -> str:
    """The user's name that the store has as this."""
    return text.decode("utf-8", "surrogatepass")
