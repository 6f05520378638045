"""The only maker of keys in Redis: `myriad:{tag}:<kind>[:...]`.

The tag decides the node of a cluster. It is `{tenant/session}`, `{tenant/user}` or `{tenant}`, and a kind belongs to
one sort of tag only, so a session and a user of the same name never share a key. Ids are encoded, never pasted.

| key | type | holds | lives |
|---|---|---|---|
| `myriad:{t/s}:session` | hash | owner, agent, times, latest run and its token | `session_ttl` from a turn |
| `myriad:{t/s}:lease` | string | the token that holds the session | as long as the turn asked for |
| `myriad:{t/s}:work` | hash | what was asked of the run at work, its checkpoint | until the run ends |
| `myriad:{t/s}:history` | list | messages, serialised, oldest first | with the session |
| `myriad:{t/s}:requests` | hash | request id to the run it began | 24 h, each entry |
| `myriad:{t/s}:request_times` | sorted set | request id by when it is forgotten | with `requests` |
| `myriad:{t/s}:log:<n>` | stream | events of run n, id `<sequence>-0`, field `e` | `log_ttl` after its last event |
| `myriad:{t/s}:tool:<n>:<user>:<tool>:<key>` | string | a tool call of run n: that it runs, or its result | 24 h |
| `myriad:{t/u}:sessions` | sorted set | the user's sessions by their last turn | `session_ttl` from a turn |
| `myriad:{t/u}:created:<request id>` | hash | the session that the request made | 24 h |
| `myriad:{!owners}:owners` | sorted set | processes that run agents, by when they count as gone | one entry each |
| `myriad:{!owners}:sessions:<owner>` | set | sessions whose runs a process owns | until another takes them |
| `myriad:{t}:agents` | hash | name to latest revision | until deleted: it is configuration |
| `myriad:{t}:agent:<name>` | hash | revisions of an agent | until deleted: it is configuration |
"""

import hashlib
from urllib.parse import quote

from services.kit.call import Principal

_LONGEST = 128
"""An encoded id with more characters is replaced by its digest."""


def encode(text: str) -> str:
    """An id as part of a key: different ids stay different, and ASCII letters, digits and `-_.~@` stay readable.

    All else is percent-encoded UTF-8, so that none of `{ } : / * ? [ ]`, space and newline is left. What becomes longer
    than 128 characters is `%-` and its SHA-256, which is no percent-encoding of anything.

    Raises:
        ValueError: the id is empty.
    """
    if not text:
        raise ValueError("an id in a key must not be empty")
    encoded = quote(text, safe="@", errors="surrogatepass")
    if len(encoded) <= _LONGEST:
        return encoded
    return "%-" + hashlib.sha256(encoded.encode()).hexdigest()


class SessionKeys:
    """Keys in the tag of one session."""

    __slots__ = ("_prefix",)

    def __init__(self, principal: Principal, session_id: str) -> None:
        """The session is looked for in the principal's tenant; whose it is, the functions check."""
        self._prefix = f"myriad:{{{encode(principal.tenant)}/{encode(session_id)}}}:"

    @property
    def session(self) -> str:
        """The session itself."""
        return self._prefix + "session"

    @property
    def lease(self) -> str:
        """Who holds the session."""
        return self._prefix + "lease"

    @property
    def work(self) -> str:
        """What the run at work needs, should another have to go on with it."""
        return self._prefix + "work"

    @property
    def history(self) -> str:
        """Its messages."""
        return self._prefix + "history"

    @property
    def requests(self) -> str:
        """Which request began which run."""
        return self._prefix + "requests"

    @property
    def request_times(self) -> str:
        """When requests are forgotten."""
        return self._prefix + "request_times"

    def log(self, run: int) -> str:
        """Events of the run with this number."""
        return f"{self._prefix}log:{run}"

    def tool_call(self, run: int, user: str, tool: str, idempotency_key: str) -> str:
        """One call of a tool by the run with this number."""
        return f"{self._prefix}tool:{run}:{encode(user)}:{encode(tool)}:{encode(idempotency_key)}"


class OwnerKeys:
    """Keys of the processes that run agents. No tenant's encoding has a `!`, so their tag is nobody else's."""

    owners = "myriad:{!owners}:owners"
    """Who lives."""

    @staticmethod
    def sessions(owner: str) -> str:
        """Sessions whose runs a process owns."""
        return f"myriad:{{!owners}}:sessions:{encode(owner)}"


class UserKeys:
    """Keys in the tag of one user."""

    __slots__ = ("_prefix",)

    def __init__(self, principal: Principal) -> None:
        """Of the principal, whoever else's id is at hand."""
        self._prefix = f"myriad:{{{encode(principal.tenant)}/{encode(principal.user)}}}:"

    @property
    def sessions(self) -> str:
        """The user's sessions."""
        return self._prefix + "sessions"

    def created(self, request_id: str) -> str:
        """The session that a request made."""
        return f"{self._prefix}created:{encode(request_id)}"


class TenantKeys:
    """Keys in the tag of one tenant."""

    __slots__ = ("_prefix",)

    def __init__(self, principal: Principal) -> None:
        """Of the principal's tenant."""
        self._prefix = f"myriad:{{{encode(principal.tenant)}}}:"

    @property
    def agents(self) -> str:
        """Names of the tenant's agents."""
        return self._prefix + "agents"

    def agent(self, name: str) -> str:
        """Revisions of one agent."""
        return f"{self._prefix}agent:{encode(name)}"
