"""URLs of tools: what an author may write, and what an argument can never change.

Scheme, host and port come from the operator or the author alone. An argument fills part of one path segment or of one
query value, percent-encoded.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode, urljoin

from services.toolexec.core.arguments import wrong
from services.toolexec.domain import Url

MAX_TARGET = 8_000
_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9_.-]{1,253}))(?::(?P<port>[0-9]{1,5}))?"
)
_REST = re.compile(r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?", re.DOTALL)
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_KEPT = "!$%&'()*+,-./:;=@_~?"


class UrlRefused(Exception):
    """The URL is none that may be called. The message says why, without the URL."""


@dataclass(frozen=True, slots=True)
class Base:
    """Where an endpoint of the operator's begins: a path prefix without its last slash."""

    scheme: str
    host: str
    port: int
    path: str


def read_base(url: str) -> Base:
    """An endpoint of the operator's configuration.

    Raises:
        UrlRefused: not `http(s)://host[:port][/path]`.
    """
    read = read_url(url)
    if "?" in read.target:
        raise UrlRefused("an endpoint has no query")
    return Base(read.scheme, read.host, read.port, read.target.rstrip("/"))


def read_url(url: str) -> Url:
    """An absolute URL without placeholders.

    Raises:
        UrlRefused: not http or https; with a user, a fragment, an unreadable host or port, or a path that climbs.
    """
    if not _PRINTABLE.fullmatch(url) or len(url) > MAX_TARGET:
        raise UrlRefused("it holds characters that no URL has, or too many")
    scheme, host, port, rest = _split(url)
    path, query = _parts(rest)
    for segment in path.split("/"):
        _refuse_climbing(segment)
    target = (path or "/") + (f"?{query}" if query is not None else "")
    return Url(scheme, host, port, quote(target, safe=_KEPT))


def redirected(url: Url, location: str) -> Url:
    """Where a redirect leads.

    Raises:
        UrlRefused: as `read_url`; or from https to http.
    """
    if not _PRINTABLE.fullmatch(location):
        raise UrlRefused("it leads to what is no URL")  # urljoin would drop line breaks in silence
    try:
        found = read_url(urljoin(str(url), location))
    except ValueError:
        raise UrlRefused("it cannot be read") from None
    if url.scheme == "https" and found.scheme == "http":
        raise UrlRefused("it leads from https to http")
    return found


def fill(template: str, base: Base | None, arguments: Mapping[str, Any]) -> tuple[Url, set[str]]:
    """The URL of one call, and the names of the arguments it took.

    Args:
        template: With a base, a path beneath it; without, an absolute URL.
        base: The operator's endpoint.
        arguments: Values by name.

    Raises:
        UrlRefused: the template is wrong.
        InvalidToolArguments: an argument it needs is absent, or cannot stand there.
    """
    if base is None:
        scheme, host, port, rest = _split(template)
        prefix = ""
    else:
        scheme, host, port, prefix, rest = base.scheme, base.host, base.port, base.path, template
        if not rest.startswith("/"):
            raise UrlRefused("the path beneath an endpoint begins with /")
    path, query = _parts(rest)
    if "{" in _PLACEHOLDER.sub("", rest) or "}" in _PLACEHOLDER.sub("", rest):
        raise UrlRefused("a brace stands for no argument")
    used: set[str] = set()
    target = prefix + "/".join(_segment(part, arguments, used) for part in (path or "/").split("/"))
    if query is not None:
        target += "?" + _substitute(query, arguments, used, _encoded)
    if len(target) > MAX_TARGET:
        raise wrong("make the URL too long")
    return Url(scheme, host, port, quote(target, safe=_KEPT)), used


def with_query(url: Url, arguments: Mapping[str, Any]) -> Url:
    """The URL with the arguments as query parameters: null is left out, a list repeats its name.

    Raises:
        InvalidToolArguments: one is an object, or all are too long together.
    """
    pairs = [
        (name, _plain(each, name))
        for name, value in arguments.items()
        for each in (value if isinstance(value, list) else [value])
        if each is not None
    ]
    if not pairs:
        return url
    separator = "&" if "?" in url.target else "?"
    target = url.target + separator + urlencode(pairs, quote_via=quote, safe="")
    if len(target) > MAX_TARGET:
        raise wrong("make the URL too long")
    return Url(url.scheme, url.host, url.port, target)


def _split(url: str) -> tuple[str, str, int, str]:
    found = _URL.fullmatch(url)
    if found is None:
        raise UrlRefused("only http and https URLs are called")
    authority = _AUTHORITY.fullmatch(found["authority"])
    if authority is None:
        raise UrlRefused("its host cannot be read; users, passwords and placeholders are refused there")
    scheme = found["scheme"].lower()
    port = int(authority["port"]) if authority["port"] else _DEFAULT_PORTS[scheme]
    if not 0 < port < 65_536:
        raise UrlRefused("there is no such port")
    return scheme, (authority["address"] or authority["name"]).lower(), port, found["rest"]


def _parts(rest: str) -> tuple[str, str | None]:
    found = _REST.fullmatch(rest)
    if found is None or found["fragment"]:
        raise UrlRefused("a fragment is never sent")
    if "\\" in found["path"] or "//" in found["path"]:
        raise UrlRefused("a path has neither a backslash nor an empty segment")
    return found["path"], found["query"]


def _segment(template: str, arguments: Mapping[str, Any], used: set[str]) -> str:
    _refuse_climbing(template)
    return _substitute(template, arguments, used, _encoded_in_path)


def _substitute(template: str, arguments: Mapping[str, Any], used: set[str], encode: Callable[[Any, str], str]) -> str:
    def replace(found: re.Match[str]) -> str:
        name = found[1]
        used.add(name)
        if arguments.get(name) is None:
            raise wrong("is required", argument=name)
        return encode(arguments[name], name)

    return _PLACEHOLDER.sub(replace, template)


def _encoded(value: Any, name: str) -> str:
    return quote(_plain(value, name), safe="")


def _encoded_in_path(value: Any, name: str) -> str:
    text = _plain(value, name)
    if not text or _climbs(text):
        raise wrong("makes no path segment", argument=name)
    return quote(text, safe="")


def _refuse_climbing(segment: str) -> None:
    if _climbs(unquote(segment)):
        raise UrlRefused("a path does not climb")


def _climbs(text: str) -> bool:
    # A server that decodes before it routes would climb by an encoded slash too.
    return not {".", ".."}.isdisjoint(re.split(r"[/\\]", text))


def _plain(value: Any, name: str) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return repr(value)
    raise wrong("cannot stand in a URL; only text, numbers and true or false can", argument=name)
