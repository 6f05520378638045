"""No connection is even tried to an address that is not public, however it is written or found."""

import asyncio
import ssl
from ipaddress import ip_address

import pytest
import pytest_asyncio

from services.kit.errors import FailedPrecondition, ToolUnavailable
from services.toolexec.adapters.guard import SystemResolver, is_public
from services.toolexec.adapters.http import HttpcoreCaller
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.domain import HttpCall
from tests.support.http_server import answer, redirect, running_http_server

TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Believes nobody; reading the system's authorities takes as long as all else here."""

PRIVATE_URLS = [
    "http://127.0.0.1/",
    "http://127.0.0.1:8080/",
    "https://127.0.0.1/",
    "http://127.255.255.254/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0x7f.0.0.1/",
    "http://0x7f000001/",
    "http://0x7F.1/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://169.254.43518/",
    "http://168.63.129.16/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.0.0.192/",
    "http://192.168.1.1/",
    "http://198.18.0.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a00:1::1]/",
    "http://[2001::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[5f00::1]/",
    "http://[100::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://metadata.test/",
    "http://mixed.test/",
    "http://mixed6.test/",
]
NAMES = {
    "metadata.test": ["169.254.169.254"],
    "mixed.test": ["93.184.216.34", "10.0.0.1"],
    "mixed6.test": ["2606:4700::1111", "::1"],
}


def get(url: str) -> HttpCall:
    return HttpCall("GET", "", url, {}, 65_536, idempotency_key=False)


@pytest.fixture
def connects(monkeypatch) -> list:
    """Every address this process tries to connect to; none is reached."""
    tried: list = []

    async def sock_connect(_loop, _sock, address):
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", sock_connect)
    return tried


class Names:
    """A name server of the test's, and this machine's resolver for what is written in digits."""

    def __init__(self) -> None:
        self.system = SystemResolver()
        self.asked: list[str] = []
        self.names: dict[str, list[list[str]]] = {name: [found] for name, found in NAMES.items()}

    async def __call__(self, host: str, port: int):
        self.asked.append(host)
        answers = self.names.get(host)
        if answers is None:
            return await self.system(host, port)
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest_asyncio.fixture
async def names():
    made = Names()
    yield made
    made.system.close()


@pytest_asyncio.fixture
async def tools(names):
    caller = HttpcoreCaller(names, trust=TRUST)
    yield HttpTools(caller, {}, frozenset({80, 443, 8080}))
    await caller.close()


@pytest.mark.parametrize("url", PRIVATE_URLS)
async def test_an_address_that_is_not_public_is_refused_before_any_connection(tools, connects, url):
    with pytest.raises(FailedPrecondition, match="only call public addresses") as caught:
        await tools.run("get", get(url), {}, "k")
    assert connects == []
    assert "127" not in caught.value.message


async def test_a_public_address_is_tried(tools, connects, names):
    """The control: the spy sees a connection, and it goes to the address that was checked."""
    names.names["public.test"] = [["93.184.216.34", "2606:4700::1111"]]
    with pytest.raises(ToolUnavailable):
        await tools.run("get", get("https://public.test/"), {}, "k")
    assert [address[0] for address in connects] == ["93.184.216.34", "2606:4700::1111"]
    with pytest.raises(ToolUnavailable):
        await tools.run("get", get("http://8.8.8.8/"), {}, "k")
    assert connects[-1][0] == "8.8.8.8"


async def test_a_name_that_is_not_there_is_unavailable(tools, connects, names):
    names.names["nowhere.test"] = [[]]
    with pytest.raises(ToolUnavailable):
        await tools.run("get", get("http://nowhere.test/"), {}, "k")
    with pytest.raises(ToolUnavailable):
        await tools.run("get", get("http://" + "a" * 64 + ".test/"), {}, "k")
    assert connects == []


async def test_a_name_server_that_never_answers_is_unavailable():
    async def never(_host, _port):
        await asyncio.Event().wait()

    caller = HttpcoreCaller(never, connect_timeout=0.05, trust=TRUST)
    tools = HttpTools(caller, {}, frozenset({80}))
    with pytest.raises(ToolUnavailable):
        await tools.run("get", get("http://slow.test/"), {}, "k")
    await caller.close()


async def test_a_name_that_changes_its_answer_gains_nothing(tools, connects, names):
    names.names["rebind.test"] = [["93.184.216.34"], ["127.0.0.1"]]
    with pytest.raises(ToolUnavailable):
        await tools.run("get", get("http://rebind.test/"), {}, "k")
    assert names.asked == ["rebind.test"]
    assert [address[0] for address in connects] == ["93.184.216.34"]
    with pytest.raises(FailedPrecondition):
        await tools.run("get", get("http://rebind.test/"), {}, "k")
    assert len(connects) == 1


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "172.15.0.1",
        "172.32.0.1",
        "100.63.0.1",
        "100.128.0.1",
        "2606:4700::1111",
        "2a00:1450::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_public_addresses_are_public(address):
    assert is_public(ip_address(address))


def second_loopback_is_public(address) -> bool:
    return str(address) == "127.0.0.2"


@pytest_asyncio.fixture
async def public():
    """A server at 127.0.0.2, which the rule of these tests calls public."""
    async with running_http_server("127.0.0.2") as server:
        yield server


@pytest_asyncio.fixture
async def private():
    """A server at 127.0.0.1, which it does not."""
    async with running_http_server("127.0.0.1") as server:
        server.answers["/secret"] = answer(200, b'"secret"')
        yield server


@pytest_asyncio.fixture
async def small_web(public, private, names):
    caller = HttpcoreCaller(names, allows=second_loopback_is_public, trust=TRUST)
    yield HttpTools(caller, {"crm": private.url()}, frozenset({public.port, private.port}))
    await caller.close()


async def test_a_redirect_to_a_private_address_is_refused_before_any_connection(small_web, public, private, names):
    names.names["inside.test"] = [["127.0.0.1"]]
    for location in (private.url("/secret"), f"http://inside.test:{private.port}/secret"):
        public.answers["/go"] = redirect(location)
        with pytest.raises(FailedPrecondition):
            await small_web.run("get", get(public.url("/go")), {}, "k")
    assert len(public.requests) == 2
    assert private.connections == 0


async def test_a_redirect_to_another_public_address_is_followed(small_web, public, names):
    names.names["outside.test"] = [["127.0.0.2"]]
    public.answers["/go"] = redirect(f"http://outside.test:{public.port}/end")
    public.answers["/end"] = answer(200, b"1")
    assert (await small_web.run("get", get(public.url("/go")), {}, "k")).result_json == "1"
    assert public.requests[1].headers["host"] == f"outside.test:{public.port}"


async def test_a_redirect_loop_ends(small_web, public):
    public.answers["/go"] = redirect("/go")
    found = await small_web.run("get", get(public.url("/go")), {}, "k")
    assert found.is_error
    assert len(public.requests) == 4


async def test_a_pooled_connection_to_an_endpoint_is_not_used_for_an_agents_url(small_web, private):
    endpoint = HttpCall("GET", "crm", "/secret", {}, 65_536, idempotency_key=False)
    assert (await small_web.run("get", endpoint, {}, "k")).result_json == '"secret"'
    with pytest.raises(FailedPrecondition):
        await small_web.run("get", get(private.url("/secret")), {}, "k")
    assert len(private.requests) == 1
