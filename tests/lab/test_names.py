import json
from ipaddress import ip_address

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.lab.topology import HTTP_PORT, Lab
from tests.support.namespaces import within

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def ask(lab: Lab, name: str, kind: str, *, tcp: bool = False) -> tuple[str, list[str]]:
    """Ask the calling host's resolver from there; give the return code and the records."""
    query = dns.message.make_query(name, kind)
    with within(lab.caller.host):
        answer = (dns.query.tcp if tcp else dns.query.udp)(query, "127.0.0.1", timeout=5)
    return dns.rcode.to_text(answer.rcode()), [str(each) for rrset in answer.answer for each in rrset]


@pytest.mark.parametrize("name", ["api.mesh", "api.default.mesh", "API.Mesh"])
@pytest.mark.parametrize("option", ["--ipv4", "--ipv6"])
def test_curl_by_name(lab: Lab, name: str, option: str) -> None:
    """A plain curl finds a service by name through the host's resolver, and reaches it through the mesh."""
    answer = lab.caller.host.get(f"http://{name}:{HTTP_PORT}/by/name", option)
    assert answer.status == 200, answer.text
    assert json.loads(answer.text)["path"] == "/by/name"


def test_tcp_by_name(lab: Lab) -> None:
    """So does a program that speaks TCP and knows only the name."""
    assert lab.client("name", "stock.mesh") == {"name": "stock@app-1"}


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_records(lab: Lab, tcp: bool) -> None:
    """A, AAAA, SRV and PTR are what the registry allocated; there being no such name is said, too."""
    four, six = lab.virtual["api"]
    assert ask(lab, "api.mesh", "A", tcp=tcp) == ("NOERROR", [four])
    assert ask(lab, "api.mesh", "AAAA", tcp=tcp) == ("NOERROR", [six])
    assert ask(lab, f"_{HTTP_PORT}._tcp.api.mesh", "SRV", tcp=tcp) == (
        "NOERROR",
        [f"0 0 {HTTP_PORT} api.default.mesh."],
    )
    for address in (four, six):
        reverse = ip_address(address).reverse_pointer
        assert ask(lab, reverse, "PTR", tcp=tcp) == ("NOERROR", ["api.default.mesh."])
    assert ask(lab, "nobody.mesh", "A", tcp=tcp) == ("NXDOMAIN", [])
    assert ask(lab, "example.org", "A", tcp=tcp) == ("REFUSED", [])


def test_the_c_library(lab: Lab) -> None:
    """What the host's own programs ask for, by name and by address, is answered."""
    four, _ = lab.virtual["api"]
    assert lab.caller.host.run("getent", "hosts", four).stdout.split() == [four, "api.default.mesh"]
    assert lab.caller.host.run("getent", "ahostsv4", "api.mesh").stdout.split()[0] == four
    assert lab.caller.host.run("getent", "hosts", "nobody.mesh", check=False).returncode == 2
