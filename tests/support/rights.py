"""What the services' code asks of Redis, read from its text: to hold against what their users may do."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from services.kit import keys
from services.kit.call import Principal
from services.kit.functions import read_library

SERVICES = Path(__file__).parents[2] / "services"
KIT = {
    "memory": (),
    "orchestrator": ("queue_redis.py", "replies_redis.py", "redis_listener.py"),
    "toolexec": ("queue_redis.py",),
}
"""Adapters of the kit that a service uses; its own are those in its folder."""

_SUBCOMMANDS = {"XGROUP", "XINFO", "FUNCTION", "CLUSTER"}
_FUNCTION = re.compile(r"^local function (\w+)\(.*?\n(.*?)^end$", re.MULTILINE | re.DOTALL)
_CALL = re.compile(r"redis\.call\('(\w+)'(?:, '(\w+)')?")
_KIND = re.compile(r"^\| `myriad:(\{[^}]+\}:[^`]+)` \|", re.MULTILINE)


def commands_of(service: str, known: set[str]) -> set[str]:
    """Commands that a service's adapters send, and that the functions they call do; `known`: names of commands."""
    library = read_library()
    text = library.code.replace(library.version, "VERSION")
    functions = {name for name, _ in library.functions}
    said = [each for file in _adapters(service) for each in _texts(ast.parse(file.read_text()))]
    words = {word for word, _ in said}
    sent = {word.lower() for word, leads in said if leads and word.isupper() and word.lower() in known}
    bodies = dict(_FUNCTION.findall(text))
    return sent | {command for name in words & functions for command in _done_by(name, bodies, set())}


def _adapters(service: str) -> list[Path]:
    own = (SERVICES / service / "adapters").glob("redis*.py")
    return [*own, *(SERVICES / "kit" / name for name in KIT[service])]


def _texts(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Texts in a program, and whether each comes first in a call or a tuple, as the name of a command does."""
    for node in ast.walk(tree):
        row = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else ()
        for at, each in enumerate(row):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                yield each.value, at == 0


def _done_by(name: str, bodies: dict[str, str], seen: set[str]) -> set[str]:
    """Commands of a function of the library, and of all that it calls."""
    seen.add(name)
    found = {
        f"{command}|{sub}".lower() if command in _SUBCOMMANDS else command.lower()
        for command, sub in _CALL.findall(bodies[name])
    }
    called = set(re.findall(r"\w+", bodies[name])) & set(bodies) - seen
    return found.union(*(_done_by(each, bodies, seen) for each in called))


def kinds() -> dict[str, str]:
    """A key of each kind, by the row of the table in `keys.py` that tells of it."""
    tags = {"{t/s}": "{acme/s1}", "{t/u}": "{acme/ann}", "{t}": "{acme}", "{!queue/q}": "{!queue/SIMPLE}"}
    found = {}
    for row in _KIND.findall(str(keys.__doc__)):
        tag, _, kind = row.partition("}:")
        found[row] = "myriad:" + tags.get(f"{tag}}}", f"{tag}}}") + ":" + re.sub(r"<[^>]+>", "x", kind)
    return found


def made_keys() -> set[str]:
    """All that the classes of `keys.py` make."""
    ann = Principal("acme", "ann")
    of = [keys.SessionKeys(ann, "s1"), keys.UserKeys(ann), keys.TenantKeys(ann), keys.QueueKeys("SIMPLE")]
    found: set[str] = set()
    for holder in (*of, keys.OwnerKeys):
        for name in dir(holder):
            made = getattr(holder, name)
            if name.startswith("_"):
                continue
            if callable(made):
                made = made(*("x" for _ in inspect.signature(made).parameters))
            found |= {made} if isinstance(made, str) else set(made)
    return found
