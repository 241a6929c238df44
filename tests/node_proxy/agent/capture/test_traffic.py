import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from node_proxy.agent.capture.apply import present_cgroups
from node_proxy.agent.capture.installing import Installer
from node_proxy.agent.capture.plan import plan
from node_proxy.agent.capture.ruleset import refill
from tests.node_proxy.agent.capture.scenes import (
    API4,
    API6,
    DOCKER,
    INBOUND_PORT,
    MARK,
    accepting,
    arrived,
    load,
    planned,
    reach,
    rules,
    view,
)
from tests.support.hosts import Host
from tests.support.namespaces import Fabric
from tests.support.owned import OwnedClient, make_cgroup, remove_cgroup, slice_of_test

pytestmark = pytest.mark.root

REFUSED = "Connection refused"


@pytest.fixture
def proxy(app: Host) -> Iterator[list[socket.socket]]:
    """Where the proxy of this host would accept."""
    with accepting() as listeners:
        yield listeners


def call(client: OwnedClient, listeners: list[socket.socket]) -> str:
    """Have a client call the service."""
    try:
        client.connect(API4, 80)
    except OSError as error:
        return os.strerror(error.errno or 0)
    client.do("close")
    return arrived(listeners)


def test_virtual_addresses(installer: Installer, proxy: list[socket.socket]) -> None:
    """A service's addresses lead to the proxy, with where they led kept; others of the ranges are refused."""
    installer.install(planned(), by="ada")
    assert reach(API4, 80, proxy) == f"{API4}:80"
    assert reach(API6, 80, proxy) == f"{API6}:80"
    assert reach("240.240.0.8", 80, proxy) == REFUSED
    assert reach("fd6d:6573:6800::8", 80, proxy) == REFUSED


def test_what_is_left_alone(installer: Installer, proxy: list[socket.socket], fabric: Fabric) -> None:
    """The proxy's own calls, SSH, exempt ports, loopback and other hosts are not led anywhere else."""
    installer.install(planned(exempt_ports=(5432,)), by="ada")
    assert reach(API4, 80, proxy, mark=MARK) == REFUSED
    assert reach(API4, 22, proxy) == REFUSED
    assert reach(API6, 5432, proxy) == REFUSED
    with socket.create_server(("127.0.0.1", 80)):
        assert reach("127.0.0.1", 80, proxy) == "elsewhere"
    assert reach(fabric.hosts["other"].address, 80, proxy) == REFUSED


def test_udp(installer: Installer, proxy: list[socket.socket], app: Host) -> None:
    """UDP is not touched, not even to a port that TCP is taken from."""
    installer.install(plan(rules(inbound_port=INBOUND_PORT), view(workload_ports=(53,))), by="ada")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind((app.address, 53))
        server.settimeout(1)
        client.sendto(b"question", (app.address, 53))
        assert server.recv(100) == b"question"
        client.sendto(b"into the void", (API4, 53))


def test_endpoints(installer: Installer, proxy: list[socket.socket], fabric: Fabric) -> None:
    """A known endpoint leads to the proxy, another port of the same host does not."""
    address, address6 = fabric.hosts["other"].address, fabric.hosts["other"].address6
    mesh = view(endpoints={"default/api": ((address, 8080), (address6, 8080))})
    installer.install(plan(rules(endpoints=True), mesh), by="ada")
    assert reach(address, 8080, proxy) == f"{address}:8080"
    assert reach(address6, 8080, proxy) == f"{address6}:8080"
    assert reach(address, 8081, proxy) == REFUSED


def test_users(installer: Installer, proxy: list[socket.socket]) -> None:
    """Calls of excluded users are not taken; with included users, only theirs are."""
    with OwnedClient(uid=4242) as web, OwnedClient(uid=4243) as batch:
        installer.install(planned(exclude_users=(4243,)), by="ada")
        assert [call(web, proxy), call(batch, proxy)] == [f"{API4}:80", REFUSED]
        installer.install(planned(include_users=(4243,)), by="ada")
        assert [call(web, proxy), call(batch, proxy)] == [REFUSED, f"{API4}:80"]


def test_cgroups(installer: Installer, proxy: list[socket.socket]) -> None:
    """Calls from below a cgroup are taken or not as said; what does not run yet is matched once it does."""
    with slice_of_test() as top:
        batch_unit = f"{top}/batch.service"
        excluding = planned(exclude_cgroups=(batch_unit,))
        installer.install(excluding, by="ada")
        assert installer.kernel.listing().count("elements") == 2
        with (
            OwnedClient(cgroup=f"{top}/web.service") as web,
            OwnedClient(cgroup=f"{batch_unit}/job") as batch,
        ):
            assert call(batch, proxy) == f"{API4}:80"
            installer.update(refill(present_cgroups(excluding)))
            assert [call(web, proxy), call(batch, proxy)] == [f"{API4}:80", REFUSED]
            installer.install(planned(include_cgroups=(top,)), by="ada")
            assert [call(web, proxy), call(batch, proxy)] == [f"{API4}:80", f"{API4}:80"]
            with OwnedClient() as stranger:
                assert call(stranger, proxy) == REFUSED
        remove_cgroup(batch_unit)
        make_cgroup(batch_unit)


def dial(host: Host, address: str, port: int) -> str:
    """Connect from another host; give what it is told, or what happened."""
    program = (
        "import socket, sys\n"
        "try:\n"
        "    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as sock:\n"
        "        print(sock.recv(100).decode())\n"
        "except OSError as error:\n"
        "    print(error.strerror or error)\n"
    )
    return host.run(sys.executable, "-c", program, address, str(port)).stdout.strip()


def serve(port: int, says: str) -> subprocess.Popen[str]:
    """Listen on this host, and say something to whoever comes."""
    program = (
        "import socket, sys\n"
        "place = ('::', int(sys.argv[1]))\n"
        "server = socket.create_server(place, family=socket.AF_INET6, dualstack_ipv6=True)\n"
        "print(flush=True)\n"
        "while True:\n"
        "    server.accept()[0].sendall(sys.argv[2].encode())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(port), says], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_plaintext_from_other_hosts(installer: Installer, app: Host, fabric: Fabric) -> None:
    """A workload's port leads other hosts to the proxy, even past docker's; this host to the workload.

    Ports of others, SSH first, and the plaintext port itself do not lead there.
    """
    other = fabric.hosts["other"]
    load(DOCKER)
    served = [
        serve(8080, "workload"),
        serve(8081, "workload"),
        serve(22, "ssh"),
        serve(9090, "stranger"),
        serve(INBOUND_PORT, "proxy"),
    ]
    try:
        installer.install(
            plan(rules(inbound_port=INBOUND_PORT), view(workload_ports=(8080, 8081, 22))), by="ada"
        )
        for address in (app.address, app.address6):
            told = {port: dial(other, address, port) for port in (8080, 8081, 22, 9090, INBOUND_PORT)}
            assert told == {8080: "proxy", 8081: "proxy", 22: "ssh", 9090: "stranger", INBOUND_PORT: REFUSED}
            with socket.create_connection((address, 8081), timeout=2) as here:
                assert here.recv(100) == b"workload"
        assert dial(other, "127.0.0.1", 8080) == REFUSED
    finally:
        for process in served:
            process.kill()
            process.communicate()


def test_closed_while_the_proxy_is_down(installer: Installer, app: Host, fabric: Fabric) -> None:
    """With rules in force and no proxy behind them, callers are refused at once, and nobody gets past."""
    served = serve(8080, "workload")
    try:
        installer.install(plan(rules(inbound_port=INBOUND_PORT), view(workload_ports=(8080,))), by="ada")
        assert reach(API4, 80, []) == REFUSED
        assert dial(fabric.hosts["other"], app.address, 8080) == REFUSED
    finally:
        served.kill()
        served.communicate()
