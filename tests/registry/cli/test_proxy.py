import json
from typing import Any

import pytest

from registry.cli.answers import NodeProxyView
from registry.cli.proxy import ailments
from tests.fakes.registry_api import FakeRegistry
from tests.registry.cli.conftest import NOW, Meshctl

WELL: dict[str, Any] = {
    "node": "web-1",
    "live": True,
    "appliedRevision": 40,
    "workers": 2,
    "certificateExpires": "2026-01-02T00:00:00Z",
    "rejected": [],
    "faults": [],
}
KEY = "authorizationpolicies/default/deny-web"
REASON = "spec.rules[0].to: is not a list; write a list"


def rejecting(last_good: int | None) -> dict[str, Any]:
    return {**WELL, "rejected": [{"key": KEY, "reason": REASON, "lastGoodRevision": last_good}]}


def test_a_well_node_is_exit_code_0(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """Every node live, with a certificate and nothing rejected: all is well."""
    registry.proxies = [WELL]
    assert meshctl("proxy status").exit_code == 0


def test_a_row_says_what_is_applied_and_how_far_behind(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """Applied revision, lag behind the newest, workers, certificate and rejections stand in one row."""
    registry.proxies, registry.revision = [WELL], 43
    row = meshctl("proxy status").stdout.splitlines()[1].split()
    assert row == ["web-1", "well", "40", "3", "2", "12h", "left", "0", "0"]


@pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "name"])
def test_a_rejection_is_exit_code_1(meshctl: Meshctl, registry: FakeRegistry, output: str) -> None:
    """A node that rejects a resource is not well, in any format."""
    registry.proxies = [rejecting(12)]
    assert meshctl(f"proxy status -o {output}").exit_code == 1


def test_a_rejection_names_node_key_and_reason(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """Who refuses what, and why, stands in one line."""
    registry.proxies = [rejecting(12)]
    assert meshctl("proxy status").stdout.splitlines()[-1].split(maxsplit=4) == [
        "web-1",
        KEY,
        "revision",
        "12",
        REASON,
    ]


SLOW = "slow of BackendPolicy shop/web: of requests to shop/web 10 % wait 5s"


def test_a_fault_that_is_on_is_said_once(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """A fault stands under the table, once for all the nodes that make it, and counts in each one's row."""
    registry.proxies = [{**WELL, "faults": [SLOW]}, {**WELL, "node": "web-2", "faults": [SLOW]}]
    lines = meshctl("proxy status").stdout.splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["1", "1"]
    assert [line.split(maxsplit=1) for line in lines[-1:]] == [["all", SLOW]]


def test_a_fault_of_one_node(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """While a node has not heard of the policy yet, those that have are named."""
    registry.proxies = [{**WELL, "faults": [SLOW]}, {**WELL, "node": "web-2"}]
    assert meshctl("proxy status").stdout.splitlines()[-1].split(maxsplit=1) == ["web-1", SLOW]


def test_a_fault_is_no_ailment(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """Faults were ordered: a node that makes them is well."""
    registry.proxies = [{**WELL, "faults": [SLOW]}]
    assert meshctl("proxy status").exit_code == 0


def test_nothing_in_force_is_said(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """A rejected resource without an older good version leaves nothing in force."""
    registry.proxies = [rejecting(None)]
    assert f"{KEY}  nothing" in meshctl("proxy status").stdout


@pytest.mark.parametrize(
    ("changes", "ailment"),
    [
        ({"live": False}, "down"),
        ({"applied_revision": None}, "applied nothing yet"),
        ({"applied_revision": 0}, "applied nothing yet"),
        ({"certificate_expires": "2026-01-01T11:59:59Z"}, "certificate expired"),
    ],
)
def test_a_node_is_not_well(changes: dict[str, Any], ailment: str) -> None:
    """A node that is down, has applied nothing or can prove itself no longer is not well."""
    good = {"node": "a", "live": True, "applied_revision": 3}
    assert ailments(NodeProxyView(**{**good, **changes}), NOW) == (ailment,)


@pytest.mark.parametrize("expires", [None, "", "soon", "2026-01-01T11:00:00"])
def test_an_expiry_that_is_not_known_is_no_ailment(expires: str | None) -> None:
    """Without a moment in a known time zone nothing is claimed."""
    node = NodeProxyView(node="a", live=True, applied_revision=3, certificate_expires=expires)
    assert ailments(node, NOW) == ()


def test_lag_alone_is_no_ailment(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """The nodes' own reports raise the newest revision, so being behind it proves nothing."""
    registry.proxies, registry.revision = [WELL], 1000
    assert meshctl("proxy status").exit_code == 0


def test_a_program_gets_everything(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """-o json is what the registry said."""
    registry.proxies, registry.revision = [rejecting(12)], 50
    assert json.loads(meshctl("proxy status -o json").stdout) == {"revision": 50, "items": [rejecting(12)]}


def test_a_node_cannot_paint_the_screen(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """A reason that a node wrote is shown without terminal controls."""
    hostile = {"key": KEY, "reason": "\x1b[2Jall is well", "lastGoodRevision": None}
    registry.proxies = [{**WELL, "rejected": [hostile]}]
    assert "\x1b" not in meshctl("proxy status").stdout
