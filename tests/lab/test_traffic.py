import json

import pytest

from tests.lab.topology import HTTP_PORT, Lab
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

GIBIBYTE = 1 << 30
# Seconds after which an endpoint that once took a second is thought better of than one that takes 10 ms.
ASKED_AGAIN = 60.0
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@FAMILIES
@pytest.mark.parametrize(("service", "name"), [("stock", "stock@app-1"), ("store", "store@app-2")])
def test_plain_tcp(lab: Lab, service: str, name: str, family: int) -> None:
    """A call to a virtual address of either family is answered, from a node of either family."""
    assert lab.client("name", lab.virtual[service][family]) == {"name": name}


def test_plain_curl_by_name(lab: Lab) -> None:
    """A plain curl to a service's name goes through the mesh and reaches its workload."""
    answer = lab.caller.host.get("http://api.mesh/some/path?and=query")
    assert answer.status == 200
    assert json.loads(answer.text)["path"] == "/some/path?and=query"


def test_http_keep_alive(lab: Lab) -> None:
    """Many requests go over one kept connection."""
    count = 50
    done = lab.caller.host.run(
        "curl", "--silent", "--output", "/dev/null", "--write-out", r"%{num_connects} %{http_code}\n",
        f"http://{lab.virtual['api'][0]}:{HTTP_PORT}/[1-{count}]",
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == ["1 200"] + ["0 200"] * (count - 1)


@FAMILIES
@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_gibibyte_arrives_whole(lab: Lab, direction: str, family: int) -> None:
    """1 GiB in either direction arrives byte for byte; the digests are computed at both ends."""
    service = ("stock", "store")[family]
    report = lab.client(direction, lab.virtual[service][family], GIBIBYTE)
    assert report["bytes"] == GIBIBYTE
    assert report["matches"]


@FAMILIES
def test_a_thousand_connections_at_once(lab: Lab, family: int) -> None:
    """1,000 connections are open together and each still echoes."""
    report = lab.client("many", lab.virtual["stock"][family], 1000)
    assert (report["opened"], report["echoed"], report["failed"]) == (1000, 1000, 0), report["failures"]


@FAMILIES
def test_the_caller_half_closes(lab: Lab, family: int) -> None:
    """A service that answers only after its caller's half-close is heard."""
    assert lab.client("upload", lab.virtual["stock"][family], 100_000)["matches"]


@FAMILIES
def test_the_service_half_closes(lab: Lab, family: int) -> None:
    """What a caller says after its service's half-close still arrives."""
    size = 100_001 + family
    assert lab.client("download", lab.virtual["stock"][family], size)["matches"]
    lab.app1.services["stock"].wait_log(f"heard after half-close: got {size}", deadline=5)


@pytest.mark.parametrize("node", ["app1", "app2"])
def test_what_passes_between_hosts_is_tls(lab: Lab, node: str) -> None:
    """A text that a request carries is seen on the workload's loopback and never between the hosts."""
    marker = f"in-clear-to-{node}"
    destination = lab.app1 if node == "app1" else lab.app2
    fabric = lab.fabric

    def reached() -> bool:
        answer = lab.caller.host.get(f"http://api.mesh/{marker}")
        assert answer.status == 200
        answered: list[str] = json.loads(answer.text)["answered"]
        return answered == [f"api@{destination.name}"]

    with (
        lab.wiretap(fabric.switch, fabric.port_of(lab.caller.host), marker) as outside,
        lab.wiretap(destination.host, "lo", marker) as inside,
    ):
        # Of two endpoints the one that was slow of late is asked again only when that is long ago.
        wait_until(reached, what=f"an answer of {destination.name}", deadline=ASKED_AGAIN)
    wire, loopback = (list(tap.records())[-1] for tap in (outside, inside))
    assert loopback["other"]["markers"][marker] > 0
    assert wire["tls"]["markers"] == wire["other"]["markers"] == {}
    assert wire["tls"]["records"]["application_data"] > 0
    assert wire["tls"]["not_tls"] == 0


def test_callers_are_known_by_their_identity(lab: Lab) -> None:
    """The destination's log names who called and who was called, by the identities that TLS proved."""
    lab.client("name", lab.virtual["stock"][0])
    lab.app1.running_proxy.wait_ready(
        lambda: [
            record
            for record in lab.app1.events("connection closed")
            if record["side"] == "inbound"
            and record["source"] == "spiffe://nodemesh.local/ns/default/sa/web"
            and record["identity"] == "spiffe://nodemesh.local/ns/default/sa/stock"
        ],
        what="a closed connection from web to stock",
        deadline=5,
    )
