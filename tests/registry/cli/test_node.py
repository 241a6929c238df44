import json

import pytest
import yaml

from tests.fakes.registry_api import FakeRegistry
from tests.registry.cli.conftest import Meshctl

IDENTITY = "spiffe://nodemesh.local/ns/default/sa/web"
LIVE = {
    "node": "web-1",
    "live": True,
    "address": "10.0.0.1",
    "tunnelPort": 15008,
    "region": "eu",
    "zone": "a",
    "version": "0.1.0",
    "enrolledAt": "2026-01-01T00:00:00Z",
    "identities": [IDENTITY],
    "workloads": [{"name": "default/web", "identity": IDENTITY, "ports": [8080], "health": "healthy"}],
    "remarks": [],
}
DOWN = {"node": "db-1", "live": False, "address": None, "tunnelPort": None, "identities": [], "workloads": []}

CREATE = "node token create --node 'web-*' --identity default/web"


def test_the_token_stands_alone_on_stdout(meshctl: Meshctl) -> None:
    """$(meshctl node token create …) is the token and nothing else."""
    assert meshctl(CREATE).stdout == "nm1.t1.secret.ab12\n"


def test_creating_says_how_to_join(meshctl: Meshctl) -> None:
    """What to run on the host stands on stderr, with this registry's address and without the token."""
    text = meshctl(CREATE).stderr
    assert (
        "nodemesh-proxy join --registry https://registry.test:15010 --token TOKEN" in text,
        "secret" in text,
    ) == (True, False)


def test_what_was_asked_for_is_sent(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """Pattern, identities, lifetime and uses reach the registry."""
    meshctl(f"{CREATE} --identity default/api --ttl 1h30m --uses 3")
    assert registry.tokens == [
        {"node": "web-*", "identities": ["default/web", "default/api"], "ttlSeconds": 5400, "uses": 3}
    ]


def test_a_token_is_good_once_and_for_an_hour(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """The defaults are narrow."""
    meshctl(CREATE)
    assert (registry.tokens[0]["ttlSeconds"], registry.tokens[0]["uses"]) == (3600, 1)


@pytest.mark.parametrize("wrong", ["--ttl 60", "--ttl soon", "--uses 0"])
def test_a_wrong_limit_is_never_sent(meshctl: Meshctl, registry: FakeRegistry, wrong: str) -> None:
    """A limit that is none is wrong usage, found before the registry is asked."""
    assert (meshctl(f"{CREATE} {wrong}").exit_code, registry.asked) == (2, [])


def test_a_program_gets_token_and_expiry(meshctl: Meshctl) -> None:
    """-o json holds the whole answer."""
    assert json.loads(meshctl(f"{CREATE} -o json").stdout) == {
        "id": "t1",
        "token": "nm1.t1.secret.ab12",
        "expiresAt": "2026-01-01T13:00:00Z",
    }


def test_nodes_are_listed_with_their_workloads(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """A row says name, state, address, place, version and what runs there."""
    registry.nodes = [LIVE]
    row = meshctl("node list").stdout.splitlines()[1].split()
    assert row == ["web-1", "live", "10.0.0.1:15008", "eu/a", "0.1.0", "default/web:8080"]


def test_a_node_that_is_down_is_said_to_be(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """An enrolled node without a record is down, its unknown facts dashes."""
    registry.nodes = [DOWN]
    assert meshctl("node list").stdout.splitlines()[1].split() == ["db-1", "down", "-", "-", "-", "-"]


def test_ipv6_addresses_stand_in_brackets(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """Address and port of a node can be told apart."""
    registry.nodes = [{**LIVE, "address": "fd00::1"}]
    assert "[fd00::1]:15008" in meshctl("node list").stdout


def test_wide_shows_whole_identities(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """-o wide adds the SPIFFE IDs a node may hold."""
    registry.nodes = [LIVE]
    assert IDENTITY in meshctl("node list -o wide").stdout


def test_unhealthy_workloads_stand_out(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """A workload's failed health check is told in its node's row."""
    workload = {"name": "default/web", "identity": IDENTITY, "ports": [8080], "health": "unhealthy"}
    registry.nodes = [{**LIVE, "workloads": [workload]}]
    assert "default/web:8080 unhealthy" in meshctl("node list").stdout


def test_remarks_are_warnings(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """A node's value that does not parse is told of beside the table."""
    registry.nodes = [{**LIVE, "remarks": ["nodes/web-1/status: is empty"]}]
    assert "warning: nodes/web-1/status: is empty" in meshctl("node list").stderr


def test_no_nodes_leads_to_the_first(meshctl: Meshctl) -> None:
    """An empty mesh says how to let the first node join."""
    assert "node token create" in meshctl("node list").stderr


def test_names_alone_for_scripts(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """-o name is one name a line."""
    registry.nodes = [LIVE, DOWN]
    assert meshctl("node list -o name").stdout == "web-1\ndb-1\n"


def test_yaml_holds_what_json_holds(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """Programs may choose their format."""
    registry.nodes = [LIVE, DOWN]
    as_json, as_yaml = meshctl("node list -o json").stdout, meshctl("node list -o yaml").stdout
    assert json.loads(as_json) == yaml.safe_load(as_yaml)


def test_approval_is_asked_for_when_wanted(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """Only a token that is to let hosts wait says so."""
    meshctl(CREATE)
    meshctl(f"{CREATE} --require-approval")
    assert [token.get("requireApproval") for token in registry.tokens] == [None, True]


def test_a_node_that_waits_is_told_how_to_let_in(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """A node that waits for approval stands out, with the command that lets it in."""
    registry.nodes = [{**DOWN, "pending": True}]
    listed = meshctl("node list")
    assert listed.stdout.splitlines()[1].split()[:2] == ["db-1", "waits"]
    assert "meshctl node approve db-1" in listed.stderr


@pytest.mark.parametrize(("users", "said"), [(True, False), (None, False), (False, True)])
def test_an_open_etcd_is_told_of(
    meshctl: Meshctl, registry: FakeRegistry, users: bool | None, said: bool
) -> None:
    """Where etcd has no users enabled, the list says so."""
    registry.nodes, registry.etcd_users = [LIVE], users
    assert ("etcd has no users enabled" in meshctl("node list").stderr) is said


@pytest.mark.parametrize(
    ("words", "decided"),
    [
        ("approve web-1", ("web-1", "approve", {})),
        ("allow web-1 --identity a/b --identity c/d", ("web-1", "allow", {"identities": ["a/b", "c/d"]})),
        ("forbid web-1 --identity a/b", ("web-1", "forbid", {"identities": ["a/b"]})),
        ("revoke web-1 --reason stolen", ("web-1", "revoke", {"reason": "stolen"})),
    ],
)
def test_decisions_reach_the_registry(
    meshctl: Meshctl, registry: FakeRegistry, words: str, decided: tuple[str, str, object]
) -> None:
    """What is decided of a node is sent as it was said, and answered in every format."""
    for output in ("table", "json", "name"):
        done = meshctl(f"node {words} -o {output}")
        assert (done.exit_code, "web-1" in done.stdout) == (0, True)
    assert registry.decided == [decided] * 3


def test_a_decision_that_changes_nothing_says_so(meshctl: Meshctl) -> None:
    """Doing again what is done already is no error, and no secret."""
    assert "Nothing was changed" in meshctl("node allow unchanged --identity a/b").stderr
    assert "no node named nobody was enrolled" in meshctl("node revoke nobody").stderr


def test_identities_must_be_named(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """To allow or forbid nothing is a mistake, found before the registry is asked."""
    assert [meshctl(f"node {word} web-1").exit_code for word in ("allow", "forbid")] == [2, 2]
    assert registry.asked == []
