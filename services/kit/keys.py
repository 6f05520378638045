"""The only maker of keys in Redis: `myriad:{tag}:<kind>[:...]`.

The tag decides the node of a cluster. It is `{tenant/session}`, `{tenant/user}` or `{tenant}`, and a kind belongs to
one sort of tag only, so a session and a user of the same name never share a key. Ids are encoded, never pasted.

| key | type | holds | lives |
|---|---|---|---|
| `myriad:{t/s}:session` | hash | owner, agent, times, latest run and its token | `session_ttl` from a turn |
| `myriad:{t/s}:lease` | string | the token that holds the session | as long as the turn asked for |
| `myriad:{t/s}:work` | hash | what was asked of the run at work, its checkpoint | until the run ends |
| `myriad:{t/s}:line` | sorted set | runs that have not begun, by when they are due | until they begin |
| `myriad:{t/s}:records` | hash | what was asked of each run in the line | until it begins |
| `myriad:{t/s}:approvals` | hash | SHA-256 of a token to what it approves | `log_ttl`; each till a while after expiry |
| `myriad:{t/s}:outbox` | hash | `settle:<n>…`: what run n has spent, until its user and tenant know | as the session |
| `myriad:{t/s}:history` | list | messages, serialised, oldest first | with the session |
| `myriad:{t/s}:requests` | hash | request id to the run it began | 24 h, each entry |
| `myriad:{t/s}:request_times` | sorted set | request id by when it is forgotten | with `requests` |
| `myriad:{t/s}:log:<n>` | stream | events of run n, id `<sequence>-0`, field `e` | `log_ttl` after its last event |
| `myriad:{t/s}:tool:<n>:<user>:<tool>:<key>` | string | a tool call of run n: that it runs, or its result | 24 h |
| `myriad:{t/s}:effects` | sorted set | keys of tool calls and executions, by when they are gone | two days |
| `myriad:{t/s}:execution:<n>:<user>:<tool>:<key>` | hash | a tool of run n in the background | 24 h from its end |
| `myriad:{t/s}:callback:<n>` | hash | what became of the callback of run n | as the run's log |
| `myriad:{t/u}:sessions` | sorted set | the user's sessions by their last turn | `session_ttl` from a turn |
| `myriad:{t/u}:created:<request id>` | hash | the session that the request made | 24 h |
| `myriad:{t/u}:begun:<request id>` | string | the session in which the request began a run | 24 h |
| `myriad:{t/u}:reply:<method>:<request id>` | string | that a call is under way, or its reply | its deadline, 24 h |
| `myriad:{t/u}:user_budget` | hash | what the user's runs may spend, and have | `session_ttl`; with limits: for ever |
| `myriad:{t/u}:user_reservations` | sorted set | what is set apart for runs, by when that expires | with the budget |
| `myriad:{!owners}:owners` | sorted set | processes that run agents, by when they count as gone | one entry each |
| `myriad:{!owners}:sessions:<owner>` | set | sessions whose runs a process owns | until another takes them |
| `myriad:{!queue/q}:items` | hash | item of a queue to what it is and where it waits | until it is done |
| `myriad:{!queue/q}:waiting` | sorted set | items by tenant, priority and order | until claimed |
| `myriad:{!queue/q}:since` | sorted set | items by when they could be claimed | until claimed |
| `myriad:{!queue/q}:delayed` | sorted set | items by when they are due | until due |
| `myriad:{!queue/q}:turns` | sorted set | tenants by the turns they got | until they have nothing waiting |
| `myriad:{!queue/q}:counts` | hash | tenant to how many items it has | until it has none |
| `myriad:{!queue/q}:order` | string | how many items waited so far | for ever: one number a queue |
| `myriad:{!queue/q}:claimed` | stream | items that workers hold, group `workers` | each entry until it is done |
| `myriad:{!queue/q}:wake` | stream | says that something was put | for ever: one entry a queue |
| `myriad:{!queue/q}:dead` | list | the newest 100 items that nobody could read or work on | 14 days after the last |
| `myriad:{t}:events` | stream | what happened in the tenant, about 10,000 of it | 7 days after the last |
| `myriad:{t}:tenant_budget` | hash | as `user_budget`, of all runs of the tenant | as `user_budget` |
| `myriad:{t}:tenant_reservations` | sorted set | as `user_reservations` | as `user_reservations` |
| `myriad:{t}:dead_letters` | sorted set | runs that were given up, by when | 14 days |
| `myriad:{t}:dead_letter_texts` | hash | run to its letter | 14 days |
| `myriad:{t}:agents` | hash | name to latest revision | until deleted: it is configuration |
| `myriad:{t}:agent:<name>` | hash | revisions of an agent | until deleted: it is configuration |
"""

import hashlib
import re
from urllib.parse import quote, unquote

from services.kit.call import Principal

_LONGEST = 128
"""An encoded id with more characters is replaced by its digest."""

_PLAIN = re.compile(rf"[A-Za-z0-9_.~@-]{{1,{_LONGEST}}}")
"""Ids that are encoded as themselves."""

STOPS = "myriad:!stops"
"""Channel on which all processes hear of runs told to stop: `<key of the session> <number of the run>`. What changes in
a run is told on a channel that is named as its session is: `<number of the run>`."""


def encode(text: str) -> str:
    """An id as part of a key: different ids stay different, and ASCII letters, digits and `-_.~@` stay readable.

    All else is percent-encoded UTF-8, so that none of `{ } : / * ? [ ]`, space and newline is left. What becomes longer
    than 128 characters is `%-` and its SHA-256, which is no percent-encoding of anything.

    Raises:
        ValueError: the id is empty.
    """
    if _PLAIN.fullmatch(text):  # nearly all are, and quoting takes ten times as long
        return text
    if not text:
        raise ValueError("an id in a key must not be empty")
    encoded = quote(text, safe="@", errors="surrogatepass")
    if len(encoded) <= _LONGEST:
        return encoded
    return "%-" + hashlib.sha256(encoded.encode()).hexdigest()


def read_session(key: str) -> tuple[str, str] | None:
    """Tenant and session of a session's key. None: it is none, or it has the digest of one of them only."""
    found = re.fullmatch(r"myriad:\{([^/{}]+)/([^/{}]+)\}:session", key)
    if found is None or any(each.startswith("%-") for each in found.groups()):
        return None
    return unquote(found[1]), unquote(found[2])


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
    def line(self) -> str:
        """Runs that have not begun."""
        return self._prefix + "line"

    @property
    def records(self) -> str:
        """What was asked of each run in the line."""
        return self._prefix + "records"

    @property
    def approvals(self) -> str:
        """What may be answered, by whom who knows the token."""
        return self._prefix + "approvals"

    @property
    def effects(self) -> str:
        """Keys of what its tools did."""
        return self._prefix + "effects"

    @property
    def outbox(self) -> str:
        """What is still to be told in other tags."""
        return self._prefix + "outbox"

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

    def execution(self, run: int, user: str, tool: str, idempotency_key: str) -> str:
        """One tool at work in the background for the run with this number."""
        return f"{self._prefix}execution:{run}:{encode(user)}:{encode(tool)}:{encode(idempotency_key)}"

    def callback(self, run: int) -> str:
        """What became of the callback of the run with this number."""
        return f"{self._prefix}callback:{run}"


class OwnerKeys:
    """Keys of the processes that run agents. No tenant's encoding has a `!`, so their tag is nobody else's."""

    owners = "myriad:{!owners}:owners"
    """Who lives."""

    @staticmethod
    def sessions(owner: str) -> str:
        """Sessions whose runs a process owns."""
        return f"myriad:{{!owners}}:sessions:{encode(owner)}"


class QueueKeys:
    """Keys of one queue. No tenant's encoding has a `!`, so their tag is nobody else's."""

    __slots__ = ("_prefix",)

    def __init__(self, queue: str) -> None:
        """Of the queue with this name."""
        self._prefix = f"myriad:{{!queue/{encode(queue)}}}:"

    @property
    def all(self) -> tuple[str, ...]:
        """The keys of the functions of queues, in their order."""
        kinds = ("items", "waiting", "since", "delayed", "turns", "counts", "order", "claimed", "wake", "dead")
        return tuple(self._prefix + kind for kind in kinds)

    @property
    def claimed(self) -> str:
        """The stream of what workers hold."""
        return self._prefix + "claimed"

    @property
    def wake(self) -> str:
        """Says that something was put."""
        return self._prefix + "wake"

    @property
    def dead(self) -> str:
        """What nobody could read."""
        return self._prefix + "dead"


class UserKeys:
    """Keys in the tag of one user."""

    __slots__ = ("_prefix",)

    def __init__(self, principal: Principal) -> None:
        """Of the principal, whoever else's id is at hand."""
        self._prefix = f"myriad:{{{encode(principal.tenant)}/{encode(principal.user)}}}:"

    @property
    def budget(self) -> str:
        """What the user's runs may spend and have spent."""
        return self._prefix + "user_budget"

    @property
    def reservations(self) -> str:
        """What of it is set apart for runs at work."""
        return self._prefix + "user_reservations"

    @property
    def sessions(self) -> str:
        """The user's sessions."""
        return self._prefix + "sessions"

    def created(self, request_id: str) -> str:
        """The session that a request made."""
        return f"{self._prefix}created:{encode(request_id)}"

    def begun(self, request_id: str) -> str:
        """The session in which a request began a run."""
        return f"{self._prefix}begun:{encode(request_id)}"

    def reply(self, method: str, request_id: str) -> str:
        """What a method answered to a request."""
        return f"{self._prefix}reply:{encode(method)}:{encode(request_id)}"


class TenantKeys:
    """Keys in the tag of one tenant."""

    __slots__ = ("_prefix",)

    def __init__(self, principal: Principal) -> None:
        """Of the principal's tenant."""
        self._prefix = f"myriad:{{{encode(principal.tenant)}}}:"

    @property
    def budget(self) -> str:
        """What the tenant's runs may spend and have spent."""
        return self._prefix + "tenant_budget"

    @property
    def reservations(self) -> str:
        """What of it is set apart for runs at work."""
        return self._prefix + "tenant_reservations"

    @property
    def dead_letters(self) -> tuple[str, str]:
        """Runs that were given up by when, and their letters."""
        return self._prefix + "dead_letters", self._prefix + "dead_letter_texts"

    @property
    def agents(self) -> str:
        """Names of the tenant's agents."""
        return self._prefix + "agents"

    @property
    def events(self) -> str:
        """What happened in the tenant."""
        return self._prefix + "events"

    def agent(self, name: str) -> str:
        """Revisions of one agent."""
        return f"{self._prefix}agent:{encode(name)}"
