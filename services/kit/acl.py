"""Who may touch what in Redis: a user for each service that has a row here, and the ACL file that says so.

A user has the keys, commands and channels that are named here, and nothing else: `keys.py` lists the kinds of keys. The
server asks also before each command inside a function, as whoever called it. So `FCALL` lets nobody do what is not
theirs: not with another's keys, and not with a function that does more than its caller may.

`FCALL` itself is asked for as if it both read and wrote all its keys. Where a service only reads some, it is allowed in
a selector of its own, which has all keys; what happens inside still has only the rights outside of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from services.kit.keys import STOPS, encode
from services.kit.queue import CALLBACK_QUEUE, RUN_QUEUES, TOOL_QUEUE

OPERATOR = "operator"
"""Who minds the store, and may do everything: people, backups, tests. No service is it."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one user may do."""

    user: str
    writes: tuple[str, ...]
    """Patterns of keys that it reads and writes, what is used most first: the server tries one after the other."""

    commands: tuple[str, ...]
    """What it calls, and what the functions it calls do; those of every connection are in `CONNECTION`."""

    channels: tuple[str, ...]
    """Patterns of channels that its commands may name."""

    reads: tuple[str, ...] = ()
    """Patterns of keys that it only reads."""


def _keys(kinds: str, tag: str = "{*}") -> tuple[str, ...]:
    """Patterns of kinds that have tags of this form. `*` ends with the tag: what is encoded has no brace."""
    return tuple(f"myriad:{tag}:{kind}" for kind in kinds.split())


def _queues(*names: str) -> tuple[str, ...]:
    return tuple(f"myriad:{{!queue/{encode(name)}}}:*" for name in names)


CONNECTION = tuple("asking cluster|info cluster|slots fcall function|list ping role select wait waitaof".split())
"""What every connection needs: to find the primary, to know that the functions are there, to call them, to wait for
replicas and disk."""

_RUNS = "myriad:{*}:session"
"""Channels on which changes of runs are told."""

_OF_ALL = (
    "exists hdel hget hincrby hmget hset pexpire pexpireat pexpiretime publish set time unlink "
    "xadd zadd zcard zcount zrange zrangebyscore zrem zscore"
)
"""What the functions of each of them do."""

_OF_QUEUES = (
    "get hexists incr llen lpush ltrim xack xclaim xdel xgroup|create xgroup|delconsumer xinfo|consumers xlen xpending "
    "xread xreadgroup xrevrange zincrby zrangebylex"
)
"""What those of queues do besides."""

ROWS = (
    Row(
        "memory",
        writes=(
            *_keys("session lease history work log:* line records outbox requests request_times"),
            *_keys("sessions user_budget user_reservations tenant_budget tenant_reservations"),
            *_keys("agent:* agents created:* begun:* approvals"),
            *_keys("callback:* effects tool:* execution:*"),  # which go with their session
        ),
        # The only one that loads the functions: who can replace them can have others do what they may.
        commands=tuple(
            f"{_OF_ALL} function|load hexists hgetall hkeys hlen lrange ltrim persist pttl rpush xlen xrange "
            "zpopmin zremrangebyscore".split()
        ),
        channels=(STOPS, _RUNS),
    ),
    Row(
        "orchestrator",
        writes=(
            *_keys("session lease log:* work line reply:* events"),
            *_queues(*RUN_QUEUES, CALLBACK_QUEUE),
            *_keys("owners sessions:*", "{!owners}"),
            *_keys("records approvals outbox requests request_times callback:* dead_letters dead_letter_texts"),
            *_keys("begun:*"),  # of a run that is taken back
        ),
        commands=tuple(
            f"{_OF_ALL} {_OF_QUEUES} hrandfield hsetnx pttl sadd smembers spop srem subscribe unsubscribe "
            "xrange".split()
        ),
        channels=(STOPS, _RUNS),
    ),
    Row(
        "toolexec",
        writes=(
            *_keys("tool:* execution:* approvals effects work callback:*"),
            *_queues(*RUN_QUEUES, TOOL_QUEUE, CALLBACK_QUEUE),
        ),
        reads=_keys("session line log:*"),
        commands=tuple(f"{_OF_ALL} {_OF_QUEUES} pttl zremrangebyscore".split()),
        channels=(_RUNS,),
    ),
)
"""A service that is not here has nothing to do in Redis. Workers are the user of the orchestrator."""

USERS = (*(row.user for row in ROWS), OPERATOR)


def acl_file(passwords: Mapping[str, str]) -> str:
    """The text of an ACL file. It holds digests of the passwords only, so these must be long and random.

    Whoever is no user may ask whether the server is there (`PING`), and nothing else.

    Args:
        passwords: By user, of all `USERS`.
    """
    everything = f"user {OPERATOR} on {_digest(passwords[OPERATOR])} ~* &* +@all"
    lines = [f"user {row.user} on {_digest(passwords[row.user])} {rules(row)}" for row in ROWS]
    return "\n".join(["user default on nopass -@all +ping", *lines, everything, ""])


def rules(row: Row) -> str:
    """What a user may do, as `ACL SETUSER` takes it."""
    channels = [f"&{channel}" for channel in row.channels]
    keys = [*(f"~{key}" for key in row.writes), *(f"%R~{key}" for key in row.reads)]
    commands = sorted({*CONNECTION, *row.commands})
    apart = [f"(+fcall {' '.join(f'~{key}' for key in (*row.writes, *row.reads))})"] if row.reads else []
    return " ".join(["resetchannels", *channels, "-@all", *(f"+{each}" for each in commands), *keys, *apart])


def _digest(password: str) -> str:
    return "#" + sha256(password.encode()).hexdigest()
