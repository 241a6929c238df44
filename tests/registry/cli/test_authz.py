"""``meshctl authz`` over the real application."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.registry.cli.backends import RealBackend, open_real
from tests.registry.cli.conftest import Meshctl
from tests.registry.cli.documents import WEB

SHOP = "spiffe://nodemesh.local/ns/default/sa/shop"
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-shop}
spec:
  action: DENY
  rules:
  - from: [{source: {principals: [nodemesh.local/ns/default/sa/shop]}}]
"""
NO_ADMIN = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-shop}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin]}}]
    when: [{key: "request.headers[x-a]", values: ["b=c"]}]
"""
KEY = "authorizationpolicies/default/no-shop"
ID = "0a1b2c3d-7"
# Before any certificate that the tests sign with was issued.
ENROLLED = "2020-01-01T00:00:00Z"


def put(backend: RealBackend, key: str, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> None:
    document = {
        "apiVersion": "nodemesh/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "nodemesh-system"} | metadata,
        "spec": spec,
    }
    write = backend.put_signed if kind in {"Enrolment", "Node", "Workload"} else backend.put
    write(key, json.dumps(document).encode())


@pytest.fixture
def backend(environment: dict[str, str | None]) -> Iterator[RealBackend]:
    """Give a registry in which `web` has a workload on one node, and one call of `shop` is recorded."""
    with open_real() as backend:
        environment["MESHCTL_TOKEN"] = backend.token
        identity = SHOP.replace("shop", "web")
        enrolment = {"node": "web-1", "identities": [identity], "enrolledAt": ENROLLED}
        put(backend, "enrolments/web-1", "Enrolment", "web-1", enrolment)
        put(backend, "nodes/web-1/record", "Node", "web-1", {"address": "10.0.0.1"})
        workload = {"node": "web-1", "identity": identity, "ports": [8080]}
        place = "nodes/web-1/workloads/default/web"
        put(backend, place, "Workload", "web", workload, namespace="default", labels={"app": "web"})
        backend.put("services/default/web", WEB.encode())
        decision = {
            "outcome": "permitted",
            "reason": "permitted",
            "source": SHOP,
            "sourceIp": "10.0.0.9",
            "destination": "default/web",
            "port": 8080,
            "count": 3,
            "firstSeen": "2026-03-01T12:00:00Z",
            "lastSeen": "2026-03-01T12:00:05Z",
            "ids": [ID],
        }
        put(backend, "nodes/web-1/decisions", "NodeDecisions", "web-1", {"decisions": [decision]})
        yield backend


@pytest.fixture
def transport(backend: RealBackend) -> httpx.BaseTransport:
    return backend.transport


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    path = tmp_path / "new.yaml"
    path.write_text(POLICY)
    return path


CHECK = "authz check --from shop --to web:80"


class TestCheck:
    def test_permitted_is_exit_code_0(self, meshctl: Meshctl) -> None:
        """A permitted call is shown with who decided, and is exit code 0; the namespace may be left out."""
        result = meshctl(CHECK)
        assert result.exit_code == 0
        row = result.stdout.splitlines()[1].split(maxsplit=5)
        assert row[:4] == ["web-1", "default/web:8080", "permitted", "the"]
        assert "Identity: required by spec.mtlsMode of the mesh; the caller has one." in result.stdout
        assert "No policy selects this workload." in result.stdout

    @pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "name"])
    def test_denied_is_exit_code_7(self, meshctl: Meshctl, backend: RealBackend, output: str) -> None:
        """A denied call is exit code 7, in any format."""
        backend.put(KEY, POLICY.encode())
        assert meshctl(f"{CHECK} -o {output}").exit_code == 7

    def test_why(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """The deciding rule is named, and for a policy that does not match, what is in the way."""
        backend.put(KEY, POLICY.encode())
        denied = meshctl(CHECK).stdout
        assert "rule 0 of the DENY policy default/no-shop matches" in denied
        assert "default/no-shop  DENY    rule 0   spec.rules[0].from[0].source.principals" in denied
        permitted = meshctl("authz check --from other --to web:80").stdout
        assert (
            "spec.rules[0].from[0].source.principals wants nodemesh.local/ns/default/sa/shop, "
            "has nodemesh.local/ns/default/sa/other"
        ) in permitted

    def test_candidate(self, meshctl: Meshctl, candidate: Path) -> None:
        """With -f the answer is as if the file were applied; nothing is."""
        assert meshctl(f"{CHECK} -f {candidate}").exit_code == 7
        assert meshctl(CHECK).exit_code == 0

    def test_caller_without_identity(self, meshctl: Meshctl) -> None:
        """`--from none` asks about a process of no workload."""
        result = meshctl("authz check --from none --to default/web:80")
        assert result.exit_code == 7
        assert "the caller has none." in result.stdout

    def test_request(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """A request's parts decide, and without any it is said that only a connection is asked about."""
        backend.put(KEY, NO_ADMIN.encode())
        asked = f"{CHECK} --method GET --host web --header x-a=b=c --source-ip 10.0.0.9"
        assert meshctl(f"{asked} --path /x").exit_code == 0
        assert meshctl(f"{asked} --path /x/..%2Fadmin").exit_code == 7
        opened = meshctl(CHECK)
        assert opened.exit_code == 0
        assert "whether a connection may be opened" in opened.stderr

    def test_bad_header(self, meshctl: Meshctl) -> None:
        """A header without a value is wrong usage."""
        assert meshctl(f"{CHECK} --header x").exit_code == 2

    def test_no_such_destination(self, meshctl: Meshctl) -> None:
        """A destination that is not there is exit code 1, and the message says which ports there are."""
        result = meshctl("authz check --from shop --to web:81")
        assert result.exit_code == 1
        assert "the service of that name has 80" in result.stderr

    def test_bad_candidate(self, meshctl: Meshctl) -> None:
        """A file that is no resource is exit code 5, and nothing is asked."""
        result = meshctl(f"{CHECK} -f -", stdin=POLICY.replace("principals", "principal"))
        assert result.exit_code == 5
        assert "standard input" in result.stderr

    def test_for_programs(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """-o json is everything that the registry said; yaml the same."""
        backend.put(KEY, POLICY.encode())
        answer = json.loads(meshctl(f"{CHECK} -o json").stdout)
        assert answer["workloads"][0]["policies"][0]["rules"][0]["because"] == [
            "spec.rules[0].from[0].source.principals"
        ]
        assert yaml.safe_load(meshctl(f"{CHECK} -o yaml").stdout) == answer

    def test_nodes_that_differ(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """Where nodes hold different rules each is shown with its own."""
        identity = SHOP.replace("shop", "web")
        enrolment = {"node": "web-2", "identities": [identity], "enrolledAt": ENROLLED}
        put(backend, "enrolments/web-2", "Enrolment", "web-2", enrolment)
        put(backend, "nodes/web-2/record", "Node", "web-2", {"address": "10.0.0.2"})
        workload = {"node": "web-2", "identity": identity, "ports": [8080]}
        place = "nodes/web-2/workloads/default/web"
        put(backend, place, "Workload", "web", workload, namespace="default", labels={"app": "web"})
        good = backend.put(KEY, POLICY.replace("DENY", "ALLOW").encode())
        backend.put(KEY, b"nonsense: [")
        rejected = [{"key": KEY, "reason": "no", "lastGoodRevision": good}]
        spec = {"appliedRevision": 1, "rejected": rejected}
        put(backend, "nodes/web-1/status", "NodeStatus", "web-1", spec)
        result = meshctl(CHECK)
        assert result.exit_code == 7
        assert [line.split()[:3] for line in result.stdout.splitlines()[1:3]] == [
            ["web-1", "default/web:8080", "permitted"],
            ["web-2", "default/web:8080", "denied"],
        ]
        assert "At web-1:" in result.stdout
        assert "At web-2:" in result.stdout


class TestExplain:
    def test_the_same(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """A recorded decision is shown with who called whom, and that it would be the same now."""
        result = meshctl(f"authz explain {ID}")
        assert result.exit_code == 0
        facts = dict(line.split("  ", 1) for line in result.stdout.splitlines() if "  " in line)
        assert facts["From"].strip() == SHOP
        assert facts["To"].strip() == "default/web:8080"
        assert "It would be the same now: permitted" in result.stdout

    def test_different(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """When the policies have changed since, that is said, and why."""
        backend.put(KEY, POLICY.encode())
        result = meshctl(f"authz explain {ID}")
        assert "It would be different now: denied by default/no-shop" in result.stdout

    def test_forgotten(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """A decision that no node remembers is exit code 1, and the message says where else to look."""
        result = meshctl("authz explain 0a1b2c3d-8")
        assert result.exit_code == 1
        assert "logs" in result.stderr

    def test_a_name_that_is_no_id(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """Whatever stands for the id ends up in no other place of the address."""
        assert meshctl("authz explain ../check").exit_code == 1

    def test_for_programs(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """-o json is what the registry said, -o name the present outcome."""
        (answer,) = json.loads(meshctl(f"authz explain {ID} -o json").stdout)["items"]
        assert answer["decision"]["ids"] == [ID]
        assert answer["now"]["outcome"] == "permitted"
        assert meshctl(f"authz explain {ID} -o name").stdout == "permitted\n"

    def test_a_node_cannot_paint_the_screen(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """What a node wrote is shown without terminal controls."""
        record = {
            "outcome": "denied",
            "reason": "\x1b[2J",
            "source": "\x1b[2J",
            "port": 1,
            "count": 1,
            "firstSeen": "\x1b[2J",
            "lastSeen": "x",
            "ids": [ID],
        }
        put(backend, "nodes/web-1/decisions", "NodeDecisions", "web-1", {"decisions": [record]})
        assert "\x1b" not in meshctl(f"authz explain {ID}").stdout


class TestDiff:
    def test_nothing_changes(self, meshctl: Meshctl, backend: RealBackend, candidate: Path) -> None:
        """A file that changes no recorded call is exit code 0."""
        backend.put(KEY, POLICY.encode())
        result = meshctl(f"authz diff -f {candidate}")
        assert (result.exit_code, result.stdout) == (0, "Nothing would change for them.\n")
        assert "Replayed 1 kinds of recorded calls." in result.stderr

    @pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "name"])
    def test_denied_is_exit_code_7(
        self, meshctl: Meshctl, backend: RealBackend, candidate: Path, output: str
    ) -> None:
        """A file that would refuse a recorded call is exit code 7, in any format."""
        assert meshctl(f"authz diff -f {candidate} -o {output}").exit_code == 7

    def test_row(self, meshctl: Meshctl, backend: RealBackend, candidate: Path) -> None:
        """A change says how often it was called, by whom, and why it would be otherwise."""
        row = meshctl(f"authz diff -f {candidate}").stdout.splitlines()[1].split(maxsplit=5)
        assert row[:5] == ["3", "default/shop", "default/web:8080", "permitted", "denied"]
        assert "default/no-shop" in row[5]

    def test_permit_is_exit_code_0(self, meshctl: Meshctl, backend: RealBackend, candidate: Path) -> None:
        """A file that lets more in breaks nobody."""
        backend.put(KEY, POLICY.encode())
        candidate.write_text(POLICY.replace("DENY", "ALLOW"))
        result = meshctl(f"authz diff -f {candidate}")
        assert result.exit_code == 0
        assert "permitted" in result.stdout


UNKNOWN = POLICY.replace("sa/shop", "sa/nobody")


class TestLint:
    def test_nothing_found_is_exit_code_0(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """Where there is nothing to say, that is said."""
        result = meshctl("authz lint")
        assert (result.exit_code, result.stdout) == (0, "Nothing found.\n")

    @pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "name"])
    def test_a_warning_is_exit_code_1(self, meshctl: Meshctl, backend: RealBackend, output: str) -> None:
        """A policy about a caller that is not known is exit code 1, in any format."""
        backend.put(KEY, UNKNOWN.encode())
        assert meshctl(f"authz lint -o {output}").exit_code == 1

    def test_row(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """A finding says in which field of which policy, what is wrong and how to mend it."""
        row = meshctl("authz lint -f -", stdin=UNKNOWN).stdout.splitlines()[1].split(maxsplit=4)
        assert row[1:4] == [
            "unknown-reference",
            "default/no-shop",
            "spec.rules[0].from[0].source.principals",
        ]

    def test_for_programs(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """-o json is what the registry said."""
        found = json.loads(meshctl("authz lint -f - -o json", stdin=UNKNOWN).stdout)["findings"]
        assert found[0]["policy"] == "default/no-shop"
        assert found[0]["mend"]
