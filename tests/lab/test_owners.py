import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.topology import STOCK, TCP_PORT, TCP_SERVICE
from tests.support.mesh import PREFIX, Mesh, Node
from tests.support.namespaces import Fabric
from tests.support.owned import OwnedClient
from tests.support.plans import NodePlan, WorkloadPlan, render_denial, render_service
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

WEB_USER, BATCH_USER, STRANGER = 4242, 4243, 4244
WEB = WorkloadPlan(name="web", port=8080, health="none", uid=WEB_USER)
BATCH = WorkloadPlan(name="batch", port=8082, health="none", uid=BATCH_USER)
IDENTITY = "spiffe://nodemesh.local/ns/default/sa/{}".format
SERVED, REFUSED = "stock@app-1", "refused"


@dataclass(frozen=True)
class Shared:
    """Two services of one host that call a third on another."""

    caller: Node
    called: Node
    virtual: tuple[str, ...]

    def client(self, uid: int) -> OwnedClient:
        """Start a process of a user on the calling host."""
        return OwnedClient(uid=uid, prefix=self.caller.host.prefix)

    def ask(
        self, client: OwnedClient, *, family: int = 0, source: tuple[str, int] | None = None, say: str = ""
    ) -> str:
        """Call the service; give who answered."""
        try:
            client.connect(self.virtual[family], TCP_PORT, source=source)
            client.do("send", f"{say}name\n")
            answer = str(client.do("receive")).strip()
        except ConnectionError:
            return REFUSED
        client.do("reset")
        return answer or REFUSED

    def callers(self, event: str, **fields: object) -> set[str]:
        """Give the identities that the destination logged with an event."""
        return {record["source"] for record in self.called.events(event) if fields.items() <= record.items()}


@pytest.fixture(scope="module")
def shared(as_root: None) -> Iterator[Shared]:
    """A mesh in which batch, and nobody else of the mesh, is denied stock."""
    with Fabric(["host-1", "app-1"]) as fabric, Mesh(fabric.switch) as mesh:
        mesh.start_etcd()
        mesh.start_registry()
        mesh.meshctl(
            "apply", "-f", "-", text=render_service("stock", port=TCP_PORT, target=STOCK.port, protocol="tcp")
        )
        host1, app1 = fabric.hosts.values()
        caller, called = mesh.add_nodes(
            [
                # The default workload declares a user, so that its name is no name for others.
                NodePlan(name="host-1", host=host1, speaks_for=WEB, workloads=(WEB, BATCH)),
                NodePlan(name="app-1", host=app1, speaks_for=STOCK, workloads=(STOCK,)),
            ]
        )
        mesh.start_proxies([caller, called])
        mesh.start_service(called, "stock", TCP_SERVICE, "--name", SERVED, "--port", str(STOCK.port))
        virtual = mesh.wait_services({"stock": 1})["stock"]
        key = f"{PREFIX}authorizationpolicies/default/no-batch"
        mesh.wait_applied(
            mesh.put(key, render_denial("no-batch", of="stock", source="batch", port=STOCK.port))
        )
        opened = Shared(caller, called, virtual)

        def answered() -> bool:
            with opened.client(WEB_USER) as web:
                return opened.ask(web) == SERVED

        wait_until(answered, what="stock to answer web", deadline=20)
        yield opened


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_two_users_of_one_host(shared: Shared, family: int) -> None:
    """Of two services of one host that call the same service, one is allowed and the other denied."""
    with shared.client(WEB_USER) as web, shared.client(BATCH_USER) as batch:
        assert [shared.ask(each, family=family) for each in (web, batch, web, batch)] == [
            SERVED, REFUSED, SERVED, REFUSED,
        ]  # fmt: skip
    assert IDENTITY("batch") in shared.callers("stream refused", policy="default/no-batch")
    assert IDENTITY("web") not in shared.callers("stream refused")


def test_a_caller_of_no_workload(shared: Shared) -> None:
    """A process of no declared workload is nobody, and the log of its host says which user it was."""
    with shared.client(STRANGER) as stranger:
        assert shared.ask(stranger) == REFUSED
    assert "spiffe://nodemesh.local/node/host-1" in shared.callers("stream refused")
    assert STRANGER in {record.get("caller_uid") for record in shared.caller.events("stream refused")}


def test_the_others_source_port(shared: Shared) -> None:
    """To call from the port from which the allowed one has just called does not help."""
    with shared.client(WEB_USER) as web, shared.client(BATCH_USER) as batch:
        host = shared.caller.host.address
        assert shared.ask(web, source=(host, 21_000)) == SERVED
        assert shared.ask(batch, source=(host, 21_000)) == REFUSED
        assert shared.ask(web, source=(host, 21_000)) == SERVED


def test_forged_headers(shared: Shared) -> None:
    """Nothing that a caller says makes it another."""
    claims = f"x-forwarded-client-cert: URI={IDENTITY('web')}\r\nbaggage: source={IDENTITY('web')}\r\n\r\n"
    with shared.client(BATCH_USER) as batch:
        assert shared.ask(batch, say=claims) == REFUSED


def test_many_at_once(shared: Shared) -> None:
    """Among a hundred connections of both, each is judged by its own caller."""
    with contextlib.ExitStack() as stack:
        clients = [
            (uid, stack.enter_context(shared.client(uid))) for _ in range(4) for uid in (WEB_USER, BATCH_USER)
        ]
        for _ in range(12):
            for uid, client in clients:
                assert shared.ask(client) == (SERVED if uid == WEB_USER else REFUSED)
    # Workers report once a second.
    counted = 'nodemesh_callers_total{outcome="workload"'
    wait_until(lambda: counted in shared.caller.metrics(), what="callers are counted", deadline=10)
