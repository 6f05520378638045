"""No tool connects to an address that is not public: counted outside of our own code, where nothing leads out.

tests/security/egress.py is what runs. tests/integration/toolexec/test_addresses.py asks the same of the guard alone,
and needs no namespace.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.security.egress import NO_NAMESPACE, OPERATORS_OWN
from tests.support.showing import not_shown

ROOT = Path(__file__).parents[2]

BLOCKED = [
    ip_network(each)
    for each in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
        "192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 168.63.129.16/32 "
        "::/96 ::ffff:0:0/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 "
        "fe80::/10 fec0::/10 ff00::/8"
    ).split()
]
"""Where no SYN may go. Written here again on purpose: the guard's own list is what is tested."""


def to(url: str) -> str:
    """A URL that redirects."""
    return f"http://public.test/to/{url.encode().hex()}"


NAMES = {
    "public.test": [["93.184.216.34", "2606:4700::1111"]],
    "other.test": [["203.14.1.1"]],
    "six.test": [["2a00:1450::1"]],
    "localhost": [["127.0.0.1", "::1"]],
    "localhost.": [["127.0.0.1"]],
    "localhost.localdomain": [["127.0.0.1"]],
    "127.0.0.1.": [["127.0.0.1"]],
    "127.0.0.1.nip.test": [["127.0.0.1"]],
    "10-0-0-1.sslip.test": [["10.0.0.1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "metadata.google.internal.": [["169.254.169.254"]],
    "metadata": [["169.254.169.254"]],
    "instance-data": [["169.254.169.254"]],
    "kubernetes.default.svc": [["10.96.0.1"]],
    "redis": [["10.96.0.7"]],
    "mixed.test": [["93.184.216.34", "10.0.0.1"]],
    "mixed-last.test": [["93.184.216.34", "1.1.1.1", "8.8.8.8", "10.0.0.1"]],
    "mixed6.test": [["2606:4700::1111", "::1"]],
    "four-public-six-private.test": [["93.184.216.34", "fd00::1"]],
    "four-private-six-public.test": [["192.168.1.1", "2606:4700::1111"]],
    "mapped.test": [["::ffff:169.254.169.254"]],
    "scoped.test": [["fe80::1%lo"]],
    "nat64.test": [["64:ff9b::a9fe:a9fe"]],
    "zero.test": [["0.0.0.0"]],
    "rebind-back.test": [["10.0.0.1"], ["93.184.216.34"]],
}

ADDRESSES = """
http://127.0.0.1/ https://127.0.0.1/ http://127.0.0.1:8080/ http://127.255.255.254/ http://127.1/ http://127.0.1/
http://0/ http://0.0.0.0/ http://0.0.0.0:8080/ http://00000000/ http://2130706433/ http://017700000001/
http://0177.0.0.1/ http://0177.0.0.01/ http://0x7f.0.0.1/ http://0x7f000001/ http://0x7F.1/ http://0x7f.0x0.0x0.0x1/
http://127.0.0x1/ http://127.00.00.01/ http://10.0.0.1/ http://10.255.255.255/ http://012.1/ http://0xa000001/
http://167772161/ http://100.64.0.1/ http://100.127.255.254/ http://100.100.100.200/ http://169.254.169.254/latest/
http://169.254.170.2/v2/credentials http://169.254.0.23/ http://2852039166/ http://0xa9fea9fe/ http://025177524776/
http://169.254.43518/ http://0xa9.0xfe.0xa9.0xfe/ http://0251.0376.0251.0376/ http://168.63.129.16/ http://172.16.0.1/
http://172.31.255.255/ http://192.0.0.192/ http://192.0.2.1/ http://192.168.1.1/ http://3232235777/ http://198.18.0.1/
http://198.51.100.1/ http://203.0.113.1/ http://240.0.0.1/
http://[::]/ http://[::]:8080/ http://[::1]/ http://[0:0:0:0:0:0:0:1]/ http://[0000::0001]/ http://[::127.0.0.1]/
http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/ http://[::FFFF:169.254.169.254]/ http://[0:0:0:0:0:ffff:a00:1]/
http://[::ffff:0:127.0.0.1]/ http://[64:ff9b::7f00:1]/ http://[64:ff9b::10.0.0.1]/ http://[64:ff9b::a9fe:a9fe]/
http://[64:ff9b:1::a00:1]/ http://[2002:7f00:1::]/ http://[2002:a00:1::1]/ http://[2002:a9fe:a9fe::]/
http://[2001::1]/ http://[2001:0:7f00:1::]/ http://[2001:db8::1]/ http://[3fff::1]/ http://[5f00::1]/ http://[100::1]/
http://[fc00::1]/ http://[fd00:ec2::254]/ http://[fd20:ce::254]/ http://[fec0::1]/
http://localhost/ http://LOCALHOST/ http://localhost./ http://localhost.localdomain/ http://127.0.0.1./
http://127.0.0.1.nip.test/ http://10-0-0-1.sslip.test/ http://metadata.google.internal/computeMetadata/v1/
http://METADATA.google.internal./ http://metadata/ http://instance-data/ http://kubernetes.default.svc/ http://redis/
http://mixed.test/ http://mixed-last.test/ http://mixed6.test/ http://four-public-six-private.test/
http://four-private-six-public.test/ http://mapped.test/ http://nat64.test/ http://zero.test/
http://rebind-back.test/
""".split()
"""Well-formed, and each of an address that is not public. With the guard off, each of them is connected to."""

NEVER_ANSWERED = (
    "http://224.0.0.1/ http://255.255.255.255/ http://[ff02::1]/ http://[fe80::1]/ http://scoped.test/".split()
)
"""The same, but no TCP goes there in any case."""

MALFORMED = [
    "http://public.test@127.0.0.1/",
    "http://public.test:80@127.0.0.1/",
    "http://127.0.0.1@public.test/",
    "http://public.test#@127.0.0.1/",
    "http://127.0.0.1#@public.test/",
    "http://public.test?@127.0.0.1/#x",
    "http://127.0.0.1\\@public.test/",
    "http://public.test\\@127.0.0.1/",
    "http://public.test%2f@127.0.0.1/",
    "http://127.0.0.1%2523@public.test/",
    "http://127%2e0%2e0%2e1/",
    "http://%31%32%37.0.0.1/",
    "http://[::1%25lo]/",
    "http://[fe80::1%lo]/",
    "http://[127.0.0.1]:80:80/",
    "http://[::1/",
    "http://::1/",
    "http://127.0.0.1:80:22/",
    "http://127.0.0.1:+80/",
    "http://127.0.0.1:-1/",
    "http://127.0.0.1:65536/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1: 80/",
    "http://127.0.0.1\t/",
    "http://127.0.0.1\r\nHost: public.test/",
    "http://127.0.0.1\x00.public.test/",
    "http://public.test /",
    "http:// 127.0.0.1/",
    "http:127.0.0.1/",
    "http:/127.0.0.1/",
    "http:///127.0.0.1/",
    "//127.0.0.1/",
    "127.0.0.1",
    "http://",
    "http:///",
    "http://１２７.０.０.１/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://127．0．0．1/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://loc\u00adalhost/",
    "http://localhos\u0074\u200b/",
    "http://{host}/",
    "{scheme}://public.test/",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:6379/info",
    "ftp://127.0.0.1/",
    "ldap://127.0.0.1/",
    "jar:http://127.0.0.1!/",
    "data:text/plain,x",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "ws://127.0.0.1/",
    "javascript:alert(1)",
    "http://public.test/../x",
    "http://public.test/%2e%2e/x",
]
"""Refused as text, before any name is looked up."""

PORTS = [
    "http://93.184.216.34:22/",
    "http://93.184.216.34:6379/",
    "http://public.test:25/",
    "https://public.test:22/",
    "http://127.0.0.1:22/",
    "http://public.test:00022/",
]
"""On a port that is none of the web's."""

REDIRECTS = [
    to("http://127.0.0.1/"),
    to("http://169.254.169.254/latest/meta-data/"),
    to("http://localhost/"),
    to("//127.0.0.1/"),
    to("/\\127.0.0.1/"),
    to("///127.0.0.1/"),
    to("http://0x7f000001/"),
    to("http://[::ffff:a00:1]/"),
    to("http://public.test@127.0.0.1/"),
    to("file:///etc/passwd"),
    to("gopher://127.0.0.1:6379/_FLUSHALL"),
    to("http://public.test:22/"),
    to("http://public.test:6379/"),
    to("http://127.0.0.1\r\nx: y"),
    to(to("http://10.0.0.1/")),
    to("http://rebind-after.test/"),
]
"""From a public address to one that is none."""
REDIRECT_NAMES = {"rebind-after.test": [["93.184.216.34"], ["10.0.0.1"]]}

ALLOWED = [
    *"""
http://8.8.8.8/ http://1.1.1.1/ http://9.255.255.255/ http://11.0.0.1/ http://126.255.255.255/ http://128.0.0.1/
http://100.63.255.255/ http://100.128.0.1/ http://169.253.255.255/ http://169.255.0.1/ http://172.15.255.255/
http://172.32.0.1/ http://192.167.255.255/ http://192.169.0.1/ http://192.0.1.1/ http://198.17.255.255/
http://198.20.0.1/ http://223.255.255.255/ http://168.63.129.17/ http://0x08080808/ http://134744072/
http://8.8.8.8:8080/ http://[2606:4700::1111]/ http://[2a00:1450::1]/ http://[::ffff:8.8.8.8]/
http://[64:ff9b::808:808]/ http://public.test/ http://PUBLIC.test/ http://other.test:8443/path?q=127.0.0.1
http://six.test/ http://public.test/x?url=http://127.0.0.1/ http://public.test/%2Fetc%2Fpasswd crm:/orders
""".split(),
    to("http://other.test/"),
    to("/next"),
    to("//other.test/"),
    to("http://8.8.8.8:8080/"),
]
"""Public, or the operator's own endpoint."""


@dataclass(frozen=True)
class Seen:
    """What became of one URL."""

    code: str
    syns: list[tuple[str, int]]
    connects: int

    @property
    def blocked(self) -> list[tuple[str, int]]:
        """SYNs to where none may go."""
        return [(address, port) for address, port in self.syns if is_blocked(address)]


def is_blocked(address: str) -> bool:
    parsed = ip_address(address)
    return any(parsed in network for network in BLOCKED if network.version == parsed.version)


async def egress(urls: Sequence[str], *, guard: bool = True) -> dict[str, Seen]:
    """Runs a tool for each URL in a namespace of its own."""
    given = json.dumps({"urls": urls, "names": NAMES | REDIRECT_NAMES, "guard": guard}).encode()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.security.egress"),
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate(given)
    if process.returncode == NO_NAMESPACE:
        not_shown(f"that no SYN leaves is not shown: {complaint.decode().strip()}")
    assert process.returncode == 0, complaint.decode()[-3000:]
    found: list[dict[str, Any]] = json.loads(output)
    return {
        url: Seen(each["code"], [(address, port) for address, port in each["syns"]], each["connects"])
        for url, each in zip(urls, found, strict=True)
    }


@pytest.fixture(scope="module")
async def guarded() -> AsyncIterator[dict[str, Seen]]:
    yield await egress([*ADDRESSES, *NEVER_ANSWERED, *MALFORMED, *PORTS, *REDIRECTS, *ALLOWED])


@pytest.mark.parametrize("url", [*ADDRESSES, *NEVER_ANSWERED], ids=ascii)
async def test_an_address_that_is_not_public_gets_no_syn(guarded: dict[str, Seen], url: str) -> None:
    assert guarded[url] == Seen("FAILED_PRECONDITION", [], 0)


@pytest.mark.parametrize("url", [*MALFORMED, *PORTS], ids=ascii)
async def test_a_url_that_may_not_be_called_gets_no_syn_at_all(guarded: dict[str, Seen], url: str) -> None:
    assert guarded[url].code in {"FAILED_PRECONDITION", "INVALID_ARGUMENT"}
    assert (guarded[url].syns, guarded[url].connects) == ([], 0)


@pytest.mark.parametrize("url", REDIRECTS, ids=lambda url: ascii(bytes.fromhex(url.rpartition("/")[2]).decode()))
async def test_a_redirect_to_what_may_not_be_called_gets_no_syn(guarded: dict[str, Seen], url: str) -> None:
    assert guarded[url].blocked == []
    assert {port for _, port in guarded[url].syns} <= {80}
    assert guarded[url].code in {"FAILED_PRECONDITION", '"reached"'}


@pytest.mark.parametrize("url", ALLOWED, ids=ascii)
async def test_what_is_allowed_is_reached(guarded: dict[str, Seen], url: str) -> None:
    """No false block; and the counters do see connections."""
    assert guarded[url].code == '"reached"'
    assert len(guarded[url].syns) == guarded[url].connects >= 1


async def test_the_operators_endpoint_is_reached_at_its_private_address(guarded: dict[str, Seen]) -> None:
    assert guarded["crm:/orders"].syns == [("10.9.8.7", 8080)]
    assert OPERATORS_OWN == "http://10.9.8.7:8080"


async def test_a_name_that_changes_its_answer_gains_nothing() -> None:
    """The address that was checked is the one that is connected to; the next call is checked anew."""
    url = "http://rebind-after.test/"
    # A tool each: names are the same object within one run.
    found = await egress([url, url + "again", url + "more"])
    first, second, third = found.values()
    assert first == Seen('"reached"', [("93.184.216.34", 80)], 1)
    assert second == third == Seen("FAILED_PRECONDITION", [], 0)


async def test_with_the_guard_off_every_one_of_these_addresses_is_connected_to() -> None:
    """The control: the same URLs, the same counters."""
    urls = [*ADDRESSES, *(url for url in REDIRECTS if "rebind" not in bytes.fromhex(url.rpartition("/")[2]).decode())]
    found = await egress(urls, guard=False)
    unseen = [url for url in ADDRESSES if not found[url].syns or not found[url].connects]
    assert unseen == []
    assert sum(bool(found[url].blocked) for url in ADDRESSES) >= 60
    led = [url for url in REDIRECTS if url in found and found[url].blocked]
    assert len(led) >= 5


def test_where_nothing_can_be_shown_a_person_is_told_and_ci_fails() -> None:
    with pytest.raises(pytest.skip.Exception, match="no CAP_SYS_ADMIN"):
        not_shown("no CAP_SYS_ADMIN", {})
    with pytest.raises(pytest.fail.Exception, match="no CAP_SYS_ADMIN"):
        not_shown("no CAP_SYS_ADMIN", {"CI": "1"})


def test_there_are_as_many_forms_as_were_asked_for() -> None:
    assert len({*ADDRESSES, *NEVER_ANSWERED, *MALFORMED, *PORTS, *REDIRECTS}) >= 150
    assert len(set(ALLOWED)) >= 30
