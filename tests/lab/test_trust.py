"""Changes of trust in a whole mesh: from `meshctl ca` over etcd to the sockets."""

from collections.abc import Iterator

import pytest

from tests.lab.topology import Lab
from tests.support.mesh import Node, command
from tests.support.processes import Process, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

# Design: a revocation cuts live tunnels within two seconds.
CUT = 2.0
# Certificates that were revoked are replaced within a few seconds, and ejected endpoints tried again.
BACK = 30.0


@pytest.fixture
def unrevoked(lab: Lab) -> Iterator[None]:
    """Lift what a test revokes, and wait until the mesh is as it was."""
    yield
    for revocation in lab.mesh.meshctl_json("ca", "status")["revocations"]:
        lab.mesh.meshctl("ca", "unrevoke", f"--{revocation['kind']}", revocation["value"])
    for node in (lab.caller, lab.app1, lab.app2):
        wait_until(lambda node=node: ready(node), what=f"{node.name} to be well", deadline=BACK)  # type: ignore[misc]
    for service in ("stock", "store"):
        lab.wait_reachable(service)


def ready(node: Node) -> bool:
    """Whether a node's proxy says that it is well."""
    return node.host.get(f"http://{node.plan.admin}/readyz").status == 200


def hold(lab: Lab, service: str) -> Process:
    """Hold six connections to a service open."""
    held = lab.start_client(f"held-{service}", "hold", lab.virtual[service][0], 6)
    held.wait_log("holding")
    return held


def ended(held: Process) -> int:
    """Count the held connections that have ended."""
    return sum("ended" in record for record in held.records())


@pytest.mark.usefixtures("unrevoked")
def test_revoked_node_is_cut_off(lab: Lab) -> None:
    """Within two seconds its connections are cut and no others; it is refused, and says so of itself."""
    lost, kept = hold(lab, "stock"), hold(lab, "store")
    lab.mesh.meshctl("ca", "revoke", "--node", "app-1", "--reason", "laptop stolen")
    wait_until(lambda: ended(lost) == 6, what="the revoked node's connections to be cut", deadline=CUT)
    (cut, *_) = lab.caller.events("tunnel cut")
    assert (cut["side"], cut["reason"], cut["peer_node"]) == ("outbound", "revoked", "app-1")
    assert "laptop stolen" in cut["detail"]
    assert lab.try_client("name", lab.virtual["stock"][0]).returncode != 0
    assert lab.client("name", lab.virtual["store"][0]), "others are not concerned"
    assert ended(kept) == 0
    wait_until(lambda: not ready(lab.app1), what="app-1 to say that it is unwell", deadline=BACK)
    checked = lab.app1.host.run(
        command("nodemesh-proxy"), "check", "--config", str(lab.app1.config), check=False
    )
    assert checked.returncode == 2
    assert "is REVOKED: node app-1" in checked.stderr
    assert "laptop stolen" in checked.stderr
    assert "nodemesh_tunnels_cut_total" in lab.caller.metrics()
    kept.stop()


@pytest.mark.usefixtures("unrevoked")
def test_revoked_identity_is_certified_anew(lab: Lab) -> None:
    """An identity's certificates are cut off at once; the nodes that may hold it come back by themselves."""
    held = hold(lab, "stock")
    before = lab.caller.events("certificate renewed")
    lab.mesh.meshctl("ca", "revoke", "--identity", "default/web", "--reason", "key leaked")
    wait_until(lambda: ended(held) == 6, what="the identity's connections to be cut", deadline=CUT)
    lab.wait_reachable("stock")
    (renewed,) = lab.caller.events("certificate renewed")[len(before) :]
    assert renewed["identity"] == "spiffe://nodemesh.local/ns/default/sa/web"
    assert {record["side"] for record in lab.app1.events("tunnel cut")} == {"inbound"}


@pytest.mark.timeout(240)
def test_rotation_of_the_root_under_load(lab: Lab) -> None:
    """`meshctl ca rotate --root` goes through by itself, and nobody who asks meanwhile gets an error."""
    (before,) = {root["fingerprint"] for root in lab.mesh.meshctl_json("ca", "status")["roots"]}
    held = hold(lab, "stock")
    with lab.load("http://api.mesh/", rate=100.0) as load:
        lab.mesh.meshctl("ca", "rotate", "--root")
        wait_until(
            lambda: lab.mesh.meshctl_json("ca", "status").get("rotation") is None,
            what="the rotation to go through",
            deadline=150,
            pause=0.5,
        )
        after = lab.mesh.meshctl_json("ca", "status")["roots"]
        assert [root["fingerprint"] for root in after] != [before]
        assert len(after) == 1
        lab.wait_reachable("stock")
    records = list(load.records())
    assert [record for record in records if record["error"] or record["status"] != 200] == []
    assert len(records) > 1000
    assert ended(held) == 0
    held.stop()
