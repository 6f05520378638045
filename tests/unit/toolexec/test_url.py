import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import InvalidToolArguments
from services.toolexec.core.url import UrlRefused, fill, read_base, read_url, redirected, with_query
from services.toolexec.domain import Url

CRM = read_base("http://127.0.0.1:7180/api")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/orders",
        "//host/orders",
        "ftp://host/",
        "file:///etc/passwd",
        "gopher://host:70/_x",
        "javascript:alert(1)",
        "http:/host/",
        "http:host",
        "http://",
        "http:///path",
        "http://user@host/",
        "http://user:password@host/",
        "http://a\\@b/",
        "http://a b/",
        "http://host:/",
        "http://host:0/",
        "http://host:65536/",
        "http://host:80:80/",
        "http://host:8x/",
        "http://[::1/",
        "http://::1/",
        "http://[fe80::1%25eth0]/",
        "http://[v1.x]/",
        "http://ho%73t/",
        "http://hö.de/",
        "http://{host}/",
        "http://a.{host}/",
        "http://host:{port}/",
        "{url}",
        "http{s}://host/",
        "http://host/#fragment",
        "http://host/a#b?c",
        "http://host/../etc",
        "http://host/a/../b",
        "http://host/a/%2e%2E/b",
        "http://host/a/..%2fb",
        "http://host/./a",
        "http://host//a",
        "http://host/a\\b",
    ],
)
def test_a_url_that_could_lead_elsewhere_is_refused(url):
    with pytest.raises(UrlRefused):
        fill(url, None, {"host": "evil", "port": "1", "url": "http://evil/", "s": ""})
    if "{" not in url:
        with pytest.raises(UrlRefused):
            read_url(url)


@pytest.mark.parametrize(
    "template", ["orders", "http://evil/", "//evil/", "@evil/", ":80/", "/../x", "/a{", "/}", "/{}", "/{a b}"]
)
def test_a_template_beneath_an_endpoint_is_a_path(template):
    with pytest.raises(UrlRefused):
        fill(template, CRM, {})


@pytest.mark.parametrize(
    "base", ["127.0.0.1:7180", "unix:///x", "http://u@h", "http://h/?q=1", "http://h/#f", "http://h/../x", ""]
)
def test_an_endpoint_that_is_no_base_is_refused(base):
    with pytest.raises(UrlRefused):
        read_base(base)


@pytest.mark.parametrize("value", ["", ".", "..", "../x", "a/..", "a/../b", "..\\x", "a\\.", None, [], {}, ["a"]])
def test_an_argument_that_makes_no_path_segment_is_refused(value):
    with pytest.raises(InvalidToolArguments) as caught:
        fill("/orders/{order}", CRM, {"order": value})
    assert list(caught.value.fields) == ["arguments.order"]


def test_an_absent_argument_is_named():
    with pytest.raises(InvalidToolArguments) as caught:
        fill("/orders/{order}", CRM, {})
    assert caught.value.fields == {"arguments.order": "is required"}


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("1001", "1001"),
        (1001, "1001"),
        (True, "true"),
        (1.5, "1.5"),
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("a\\b", "a%5Cb"),
        ("%2e%2e", "%252e%252e"),
        ("x\r\nHost: evil", "x%0D%0AHost%3A%20evil"),
        ("x\x00", "x%00"),
        ("a&b=c;d", "a%26b%3Dc%3Bd"),
        ("@evil:80", "%40evil%3A80"),
        ("{order}", "%7Border%7D"),
        ("süß", "s%C3%BC%C3%9F"),
        ("…", "%E2%80%A6"),
        ("...", "..."),
    ],
)
def test_an_argument_stays_within_its_segment(value, encoded):
    url, used = fill("/orders/{order}/status?o={order}", CRM, {"order": value, "other": 1})
    assert str(url) == f"http://127.0.0.1:7180/api/orders/{encoded}/status?o={encoded}"
    assert used == {"order"}


@given(st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()), st.text(max_size=40))
def test_no_argument_changes_scheme_host_port_or_the_number_of_segments(first, second):
    try:
        url, _ = fill("https://example.com/a/{x}/b{y}/c?q={y}", None, {"x": first, "y": second})
    except InvalidToolArguments:
        return
    assert (url.scheme, url.host, url.port) == ("https", "example.com", 443)
    path, _, query = url.target.partition("?")
    assert path.count("/") == 4
    assert path.startswith("/a/") and path.endswith("/c")
    assert "#" not in url.target and "?" not in query and "&" not in query
    assert url.target.isascii() and url.target.isprintable() and " " not in url.target


def test_the_rest_becomes_the_query():
    url = with_query(Url("http", "h", 80, "/a"), {"q": "a b&c=d", "n": 2, "list": [1, "x"], "none": None, "yes": True})
    assert url.target == "/a?q=a%20b%26c%3Dd&n=2&list=1&list=x&yes=true"
    assert with_query(Url("http", "h", 80, "/a?b=1"), {"c": 2}).target == "/a?b=1&c=2"
    assert with_query(Url("http", "h", 80, "/a"), {}).target == "/a"


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}], [[1]]])
def test_an_object_stands_in_no_query(value):
    with pytest.raises(InvalidToolArguments):
        with_query(Url("http", "h", 80, "/a"), {"q": value})


def test_a_url_too_long_is_refused():
    with pytest.raises(InvalidToolArguments):
        with_query(Url("http", "h", 80, "/a"), {"q": "x" * 9_000})
    with pytest.raises(InvalidToolArguments):
        fill("/a/{q}", CRM, {"q": "x" * 9_000})


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b?c=1", "https://example.com:443/b?c=1"),
        ("b", "https://example.com:443/a/b"),
        ("//other.example/x", "https://other.example:443/x"),
        ("https://OTHER.example:8443", "https://other.example:8443/"),
    ],
)
def test_a_redirect_is_relative_to_where_it_came_from(location, url):
    assert str(redirected(Url("https", "example.com", 443, "/a/"), location)) == url


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://u@example.com/",
        "https://[bad/",
        "/a\r\nb",
        "/ä",
    ],
)
def test_a_redirect_that_could_lead_elsewhere_is_refused(location):
    with pytest.raises(UrlRefused):
        redirected(Url("https", "example.com", 443, "/"), location)
