"""The users of a store: their passwords, and the file that tells Valkey who may do what.

`python -m services.dev.users FOLDER` makes them for a cluster: see k8s/README.md.
"""

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from services.dev.state import write_secret
from services.kit.acl import OPERATOR, USERS, acl_file

ACL_FILE = "users.acl"
_BYTES = 32


def make_users(folder: Path) -> dict[str, str]:
    """Password by user. Each is a file of its name in `folder`, for their owner only; those that are there are kept.

    Beside them, anew: `users.acl`, which holds digests of them and what each user may do.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for user in USERS:
        if not (folder / user).exists():
            write_secret(folder / user, secrets.token_hex(_BYTES))
    passwords = {user: (folder / user).read_text() for user in USERS}
    write_secret(folder / ACL_FILE, acl_file(passwords))
    return passwords


def url(address: str, user: str, passwords: Mapping[str, str]) -> str:
    """How a user reaches the store that listens at an address."""
    return f"redis://{user}:{passwords[user]}@{address}"


def operator_url(address: str, folder: Path) -> str:
    """How who minds the store reaches it, with the password that `make_users` made in `folder`."""
    return url(address, OPERATOR, {OPERATOR: (folder / OPERATOR).read_text()})


if __name__ == "__main__":
    make_users(Path(sys.argv[1]))
