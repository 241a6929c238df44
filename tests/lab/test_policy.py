from collections.abc import Iterator

import pytest

from tests.lab.topology import STOCK, Lab
from tests.support.mesh import PREFIX
from tests.support.plans import render_denial
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

WEB = "spiffe://nodemesh.local/ns/default/sa/web"
# The promise is about a second; the machine may be slow, so this is a deadline and not a measurement.
SOON = 3.0


def test_a_denial_cuts_what_is_open_and_refuses_what_is_new(lab: Lab) -> None:
    """A deny policy put with etcdctl takes effect at once, and both ends log which policy it was."""
    held = lab.start_client("held", "hold", lab.virtual["stock"][0], 6)
    held.wait_log("holding")
    with lab.denied("no-web", of=STOCK):
        wait_until(
            lambda: sum("ended" in record for record in held.records()) == 6,
            what="all open connections to be cut",
            deadline=SOON,
        )
        assert lab.try_client("name", lab.virtual["stock"][0]).returncode != 0
        for event in ("stream cut", "stream refused"):
            lab.app1.running_proxy.wait_ready(
                lambda event=event: [  # type: ignore[misc]
                    record
                    for record in lab.app1.events(event)
                    if record["policy"] == "default/no-web" and record["source"] == WEB
                ],
                what=f"{event!r} at the destination",
                deadline=SOON,
            )
        lab.caller.running_proxy.wait_log("default/no-web", deadline=SOON)
        assert lab.client("name", lab.virtual["store"][0]), "others are not concerned"
    lab.wait_reachable("stock")


@pytest.fixture
def broken_key(lab: Lab) -> Iterator[str]:
    """A policy's key, removed afterwards."""
    key = f"{PREFIX}authorizationpolicies/default/edited"
    yield key
    lab.mesh.wait_applied(lab.mesh.delete(key))
    lab.wait_reachable("stock")


def test_a_malformed_edit_leaves_the_last_good_policy(lab: Lab, broken_key: str) -> None:
    """The last good version stays in force, and `meshctl proxy status` names key, error and node."""
    good = lab.mesh.put(broken_key, render_denial("edited", of="stock", source="web", port=STOCK.port))
    lab.mesh.wait_applied(good)
    assert lab.try_client("name", lab.virtual["stock"][0]).returncode != 0
    broken = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: edited}\n"
    lab.mesh.put(broken_key, broken + "spec: {action: DENY, ruls: []}\n")
    wait_until(
        lambda: all(
            item["rejected"] for item in lab.mesh.meshctl_json("proxy", "status", ok=(0, 1))["items"]
        ),
        what="every node to report the rejection",
        deadline=10,
    )
    for item in lab.mesh.meshctl_json("proxy", "status", ok=(0, 1))["items"]:
        (rejected,) = item["rejected"]
        assert rejected["key"].endswith("authorizationpolicies/default/edited")
        assert "ruls" in rejected["reason"]
        assert rejected["lastGoodRevision"] == good
    table = lab.mesh.meshctl("proxy", "status", check=False).stdout
    for part in ("web-1", "app-1", "app-2", "authorizationpolicies/default/edited", "ruls"):
        assert part in table
    assert lab.try_client("name", lab.virtual["stock"][0]).returncode != 0, (
        "the last good version is in force"
    )


def test_a_policy_that_never_parsed_closes_its_namespace(lab: Lab, broken_key: str) -> None:
    """A first version that does not parse opens no door: new connections into its namespace are refused."""
    lab.mesh.put(broken_key, "no: policy\n")
    wait_until(
        lambda: lab.try_client("name", lab.virtual["stock"][0]).returncode != 0,
        what="the namespace to be closed",
        deadline=10,
    )
