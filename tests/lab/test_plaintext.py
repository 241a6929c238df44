"""What other hosts send past the mesh, and what workloads learn of their callers.

``app-1`` and, known by its IPv6 address, ``app-6`` serve on their own addresses, so that without the redirect
anybody could dial their workloads. ``outside`` is a host of the same network without a proxy.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab.topology import TCP_CLIENT, WIRETAP
from tests.support.hosts import Host
from tests.support.mesh import PREFIX, Mesh, Node
from tests.support.namespaces import Fabric
from tests.support.plans import NodePlan, WorkloadPlan, render_service
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ADDRESS_SERVICE = "tests.support.programs.address_service"
ADDRESS4, ADDRESS6 = "10.77.0.2", "fd77::3"
WEB = WorkloadPlan(name="web", port=8080, health="none")
# One that sees its callers' addresses, in each family, and one that is told of them.
SEES4 = WorkloadPlan(name="sees4", port=7001, address=ADDRESS4, preserve_source=True)
SEES6 = WorkloadPlan(name="sees6", port=7002, address=ADDRESS6, preserve_source=True)
TOLD = WorkloadPlan(name="told", port=7003, address=ADDRESS4, proxy_protocol=True)
PLAIN = WorkloadPlan(name="plain", port=7004, address=ADDRESS4)
SERVED4, SERVED6 = (SEES4, TOLD, PLAIN), (SEES6,)
WEB_IDENTITY = "spiffe://nodemesh.local/ns/default/sa/web"
PERMISSIVE = """apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open}
spec: {mtls: {mode: PERMISSIVE}}
"""
DEADLINE = 10.0


@dataclass(frozen=True)
class Street:
    """The running mesh: who calls, who is called, and who is outside; services' virtual addresses."""

    fabric: Fabric
    mesh: Mesh
    caller: Node
    called4: Node
    called6: Node
    outside: Host
    virtual: dict[str, tuple[str, ...]]

    def through_the_mesh(self, workload: WorkloadPlan) -> dict[str, Any] | None:
        """Call a workload by its virtual address; give what it knows of its caller, None if it is silent."""
        return ask(self.caller.host, self.virtual[workload.name][0], 80)

    def past_the_mesh(self, workload: WorkloadPlan, *, source: Host | None = None) -> dict[str, Any] | None:
        """Dial a workload's own port from a host without a proxy, or another one."""
        return ask(source or self.outside, workload.address, workload.port)

    def opened(self, workload: WorkloadPlan, security: str) -> float:
        """Say how many connections to a workload its proxy has counted."""
        labels = f'security="{security}",side="inbound",workload="{workload.qualified}"'
        for line in self.called4.metrics().splitlines():
            if line.startswith(f"nodemesh_connections_opened_total{{{labels}}}"):
                return float(line.rpartition(" ")[2])
        return 0.0

    def many(self, workload: WorkloadPlan, count: int) -> dict[str, Any]:
        """Keep so many calls of a workload open together; each must be given back what it says."""
        address = self.virtual[workload.name][0]
        done = self.caller.host.run(
            sys.executable, "-m", TCP_CLIENT, "many", address, "80", str(count), timeout=100
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))

    @contextmanager
    def permissive(self) -> Iterator[None]:
        """Let callers without an identity in, by a policy put with etcdctl."""
        key = f"{PREFIX}peerauthentications/default/open"
        self.mesh.wait_applied(self.mesh.put(key, PERMISSIVE))
        try:
            yield
        finally:
            self.mesh.wait_applied(self.mesh.delete(key))


def ask(source: Host, address: str, port: int) -> dict[str, Any] | None:
    """Ask an address service what it knows of its caller; None when it does not answer."""
    done = source.run(sys.executable, "-m", TCP_CLIENT, "name", address, str(port), check=False)
    if done.returncode:
        return None
    answer = json.loads(done.stdout.splitlines()[-1])["name"]
    return dict(json.loads(answer)) if answer else None


@pytest.fixture(scope="module")
def street(as_root: None) -> Iterator[Street]:
    """A mesh of two hosts, and a host outside."""
    with ExitStack() as stack:
        fabric = stack.enter_context(Fabric(["web-1", "app-1", "app-6", "outside"]))
        web1, app1, app6, outside = fabric.hosts.values()
        assert (app1.address, app6.address6) == (ADDRESS4, ADDRESS6)
        mesh = stack.enter_context(Mesh(fabric.switch))
        mesh.start_etcd()
        mesh.start_registry()
        served = (*SERVED4, *SERVED6)
        services = [render_service(each.name, port=80, target=each.port, protocol="tcp") for each in served]
        mesh.meshctl("apply", "-f", "-", text="".join(services))
        caller, called4, called6 = mesh.add_nodes([
            NodePlan(name="web-1", host=web1, speaks_for=WEB, workloads=(WEB,)),
            NodePlan(name="app-1", host=app1, speaks_for=PLAIN, workloads=SERVED4, capture_inbound=True),
            NodePlan(
                name="app-6",
                host=app6,
                address=ADDRESS6,
                speaks_for=SEES6,
                workloads=SERVED6,
                capture_inbound=True,
            ),
        ])  # fmt: skip
        mesh.start_proxies([caller, called4, called6])
        for node, workloads in ((called4, SERVED4), (called6, SERVED6)):
            for each in workloads:
                options = ["--listen", each.address, "--port", str(each.port)]
                options += ["--told"] if each.proxy_protocol else []
                mesh.start_service(node, each.name, ADDRESS_SERVICE, *options)
        virtual = mesh.wait_services({each.name: 1 for each in served})
        opened = Street(fabric, mesh, caller, called4, called6, outside, virtual)
        wait_until(lambda: opened.through_the_mesh(PLAIN), what="the mesh to answer", deadline=2 * DEADLINE)
        yield opened


class TestStrict:
    @pytest.mark.parametrize("workload", [PLAIN, SEES6], ids=["ipv4", "ipv6"])
    def test_the_port_cannot_be_dialled(self, street: Street, workload: WorkloadPlan) -> None:
        """Plaintext from another host is refused, also from one of the mesh, while mesh traffic flows."""
        assert street.through_the_mesh(workload) is not None
        assert street.past_the_mesh(workload) is None
        assert street.past_the_mesh(workload, source=street.caller.host) is None
        assert street.through_the_mesh(workload) is not None

    def test_refusals_are_told(self, street: Street) -> None:
        """A refusal is logged with the caller's address, counted as plaintext, and recorded for `meshctl`."""
        street.past_the_mesh(PLAIN)
        (record, *_) = street.called4.running_proxy.wait_ready(
            lambda: [
                record
                for record in street.called4.events("stream refused")
                if record["reason"] == "plaintext" and record["destination"] == PLAIN.qualified
            ],
            what="the refusal in the log",
            deadline=DEADLINE,
        )
        assert record["source_ip"] in (street.outside.address, street.caller.host.address)
        assert record["port"] == PLAIN.port
        counted = f'nodemesh_streams_refused_total{{reason="plaintext",workload="{PLAIN.qualified}"}}'
        wait_until(lambda: counted in street.called4.metrics(), what="the count", deadline=DEADLINE)

        def recorded() -> bool:
            found = street.mesh.etcdctl("get", f"{PREFIX}nodes/app-1/decisions")
            return '"reason":"plaintext"' in found

        wait_until(recorded, what="the decision at the registry", deadline=DEADLINE)

    def test_the_listener_itself(self, street: Street) -> None:
        """Who dials the plaintext listener directly reaches nothing, from outside and on the host."""
        for source in (street.outside, street.called4.host):
            assert ask(source, ADDRESS4, 15006) is None


class TestPermissive:
    def test_both_work_and_are_told_apart(self, street: Street) -> None:
        """Plaintext and mesh traffic both reach the workload, and each is counted as what it is."""
        with street.permissive():
            before = {kind: street.opened(PLAIN, kind) for kind in ("mtls", "plaintext")}
            for _ in range(3):
                assert street.past_the_mesh(PLAIN) is not None
            assert street.through_the_mesh(PLAIN) is not None
            wait_until(
                lambda: (
                    street.opened(PLAIN, "plaintext") == before["plaintext"] + 3
                    and street.opened(PLAIN, "mtls") == before["mtls"] + 1
                ),
                what="three connections in plaintext and one by mutual TLS",
                deadline=DEADLINE,
            )
        assert street.past_the_mesh(PLAIN) is None

    def test_callers_are_seen(self, street: Street) -> None:
        """Workloads learn the address of a caller past the mesh as of one in it, and no identity."""
        with street.permissive():
            assert street.past_the_mesh(SEES4) == {"peer": street.outside.address}
            assert street.past_the_mesh(SEES6) == {"peer": street.outside.address6}
            told = street.past_the_mesh(TOLD)
            assert told is not None
            assert told["told"] == {"address": street.outside.address}


class TestCallersAddress:
    @pytest.mark.parametrize(("workload", "address"), [(SEES4, "10.77.0.1"), (SEES6, "fd77::1")])
    def test_preserved(self, street: Street, workload: WorkloadPlan, address: str) -> None:
        """A workload with `preserve_source` sees its caller's own address, and its answer comes back."""
        assert street.through_the_mesh(workload) == {"peer": address}

    def test_told(self, street: Street) -> None:
        """One with the PROXY header is told the address and who called; it sees its own host."""
        assert street.through_the_mesh(TOLD) == {
            "peer": ADDRESS4,
            "told": {"address": "10.77.0.1", "identity": WEB_IDENTITY},
        }

    def test_plain(self, street: Street) -> None:
        """One that asks for nothing sees its own host."""
        assert street.through_the_mesh(PLAIN) == {"peer": ADDRESS4}

    @pytest.mark.parametrize("workload", [SEES4, SEES6], ids=["ipv4", "ipv6"])
    def test_answers_go_through_the_proxy(self, street: Street, workload: WorkloadPlan) -> None:
        """What such a workload answers leaves its host inside TLS and in no other way."""
        node = street.called4 if workload is SEES4 else street.called6
        marker = "x" * 64
        wire = street.mesh.processes.start_module(
            f"wiretap-{node.name}", node.host.prefix, WIRETAP, "eth0", "--port", "15008", "--marker", marker
        )
        try:
            wire.wait_log("watching")
            assert street.many(workload, 5)["echoed"] == 5
        finally:
            wire.stop()
        seen = list(wire.records())[-1]
        assert seen["tls"]["records"]["application_data"] > 0
        assert seen["other"]["markers"] == {}

    def test_many_at_once(self, street: Street) -> None:
        """A thousand calls of one caller are open together: each speaks from a port of its own."""
        report = street.many(SEES4, 1000)
        assert (report["opened"], report["failed"]) == (1000, 0), report["failures"]


def test_nothing_is_left(street: Street) -> None:
    """A proxy that is told to stop leaves no rule, route or table of its own; it is the last test here."""
    host = street.called4.host
    assert "lookup 1337" in host.run("ip", "rule").stdout
    assert street.called4.running_proxy.stop() == 0
    for family in ("-4", "-6"):
        assert "1337" not in host.run("ip", family, "rule").stdout
        assert "1337" not in host.run("ip", family, "route", "show", "table", "all").stdout
    assert host.run("nft", "list", "tables").stdout == ""
