"""``meshctl route`` over the real application."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.registry.cli.backends import RealBackend, open_real
from tests.registry.cli.conftest import Meshctl
from tests.registry.cli.documents import WEB
from tests.registry.cli.test_authz import ENROLLED, SHOP, put

KEY = "httproutes/default/canary"
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{name: web}]
  rules:
  - name: new
    matches: [{headers: [{name: x-canary, value: "1"}]}]
    backendRefs: [{name: gone, port: 80}]
  - matches: [{path: {value: /orders}}]
    backendRefs: [{name: web, port: 80, weight: 3}, {name: gone, port: 80, weight: 1}]
  - matches: [{path: {type: Exact, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example}}]
"""
ALL = ROUTE.replace(", {name: gone, port: 80, weight: 1}", "")


@pytest.fixture
def backend(environment: dict[str, str | None]) -> Iterator[RealBackend]:
    """Give a registry in which `web` has a workload on one node."""
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
        yield backend


@pytest.fixture
def transport(backend: RealBackend) -> httpx.BaseTransport:
    return backend.transport


class TestExplain:
    def test_itself(self, meshctl: Meshctl) -> None:
        """Without a route the service's own endpoints are shown; namespace and port may be left out."""
        result = meshctl("route explain --to web --path /x")
        assert result.exit_code == 0
        lines = [line.split() for line in result.stdout.splitlines()]
        assert ["To", "default/web:80", "(http)"] in lines
        assert ["default/web:80", "100", "%", "PeakEwma", "-", "1/1", "-"] in lines
        assert ["default/web:80", "web-1", "default/web", "10.0.0.1:8080", "yes"] in lines
        assert "Revision" in result.stderr

    def test_why(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """The rule that decides is named, and for each other what is in the way, in their order."""
        backend.put(KEY, ALL.encode())
        result = meshctl("route explain --to web:80 --path /orders/7")
        assert result.exit_code == 0
        assert "rule 1 of the HTTPRoute default/canary matches" in result.stdout
        table = result.stdout.partition("WHY")[2].splitlines()[1:]
        assert [line.split()[:4] for line in table] == [
            ["default/canary", "2", "0", "no"],
            ["default/canary", "1", "0", "first"],
            ["default/canary", "0", "new", "0"],
        ]
        assert "spec.rules[2].matches[0].path wants /old, has /orders/7" in table[0]
        assert "spec.rules[0].matches[0].headers[0] wants x-canary=1, has nothing" in table[2]

    @pytest.mark.parametrize("output", ["table", "wide", "json", "yaml", "name"])
    @pytest.mark.parametrize(
        ("asked", "code"),
        [
            ("--path /old", 0),
            ("--path /elsewhere", 1),
            ("--path /orders", 1),
            ("--path /orders --header x-canary=1", 1),
        ],
    )
    def test_exit_code(
        self, meshctl: Meshctl, backend: RealBackend, asked: str, code: int, output: str
    ) -> None:
        """No rule, and a backend that is not there, are exit code 1 in any format; a redirect is well."""
        backend.put(KEY, ROUTE.encode())
        assert meshctl(f"route explain --to web {asked} -o {output}").exit_code == code

    def test_header_and_host(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """Host, method and headers of the command line are those that are asked about."""
        backend.put(KEY, ALL.replace("/old}}]", "/old}, method: POST}]").encode())
        asked = "route explain --to web --host a.example --path /old -o json"
        assert json.loads(meshctl(f"{asked} --method GET").stdout)["status"] == 404
        found = json.loads(meshctl(f"{asked} --method POST").stdout)
        assert found["location"] == "http://new.example/old"
        assert json.loads(meshctl(f"{asked} --header X-Canary=1").stdout)["status"] == 500

    def test_candidate(self, meshctl: Meshctl, tmp_path: Path) -> None:
        """With -f the answer is as if the file were applied; nothing is."""
        path = tmp_path / "canary.yaml"
        path.write_text(ROUTE)
        assert meshctl(f"route explain --to web --path /x -f {path}").exit_code == 1
        assert meshctl("route explain --to web --path /x").exit_code == 0

    def test_invalid_candidate(self, meshctl: Meshctl, tmp_path: Path) -> None:
        """A file with an invalid route is exit code 5, and the registry is not asked."""
        path = tmp_path / "canary.yaml"
        path.write_text(ROUTE.replace("Exact", "Precise"))
        assert meshctl(f"route explain --to web -f {path}").exit_code == 5

    def test_names(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """For scripts the backends are enough."""
        backend.put(KEY, ROUTE.encode())
        result = meshctl("route explain --to web --path /orders -o name")
        assert result.stdout.split() == ["default/web:80", "default/gone:80"]

    def test_remarks(self, meshctl: Meshctl, backend: RealBackend) -> None:
        """What else may matter is said beside the answer."""
        consumer = ROUTE.replace("{name: canary}", "{name: mine, namespace: shop}")
        consumer = consumer.replace("[{name: web}]", "[{name: web, namespace: default}]")
        backend.put("httproutes/shop/mine", consumer.encode())
        result = meshctl("route explain --to web --path /x --from default/api")
        assert "the HTTPRoute shop/mine is for callers of namespace shop alone" in result.stderr
        assert meshctl("route explain --to web --path /x --from shop/till").exit_code == 1

    @pytest.mark.parametrize(
        ("asked", "code"), [("--to gone", 1), ("--to web:81", 1), ("--to web --header x", 2), ("", 2)]
    )
    def test_wrong_questions(self, meshctl: Meshctl, asked: str, code: int) -> None:
        """What is not there is exit code 1, what is no question is exit code 2."""
        assert meshctl(f"route explain {asked}").exit_code == code
