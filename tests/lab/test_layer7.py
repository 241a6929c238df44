"""Traffic management in a real mesh: edits by meshctl and etcdctl, and what operators are told of them."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.integration.crews import Done, OpenLoad, open_load
from tests.lab.topology import API, HTTP_PORT, Lab
from tests.support.mesh import PREFIX
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

RATE = 150.0
# From the write to the first answer of the new version.
SOON = 1.0
PATIENCE = 10.0
ROUTE_KEY = f"{PREFIX}httproutes/default/api"
POLICY_KEY = f"{PREFIX}backendpolicies/default/api"
BY = {"v1": "api@app-1", "v2": "api@app-2"}
LIMIT = 60


def service(version: str) -> str:
    """Write a Service over one version of the workloads."""
    return f"""---
apiVersion: nodemesh/v1
kind: Service
metadata: {{name: api-{version}}}
spec:
  selector: {{app: api, version: {version}}}
  identities: [default/api]
  ports: [{{port: {HTTP_PORT}, targetPort: {API.port}, protocol: http}}]
"""


def route(*rules: dict[str, object]) -> str:
    """Write a route of `api`."""
    return json.dumps({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "api"},
        "spec": {"parentRefs": [{"kind": "Service", "name": "api"}], "rules": rules},
    })  # fmt: skip


def to(v1: int, v2: int) -> dict[str, object]:
    """Give a rule's backends."""
    weights = {"api-v1": v1, "api-v2": v2}
    return {
        "backendRefs": [
            {"name": name, "port": HTTP_PORT, "weight": weight} for name, weight in weights.items()
        ]
    }


def policy(**spec: object) -> str:
    """Write a BackendPolicy of `api`."""
    return json.dumps({
        "apiVersion": "nodemesh/v1",
        "kind": "BackendPolicy",
        "metadata": {"name": "api"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "api"}], **spec},
    })  # fmt: skip


@pytest.fixture(scope="module")
def versions(lab: Lab) -> Iterator[Lab]:
    """Have a Service for each version, as long as the tests of this module run."""
    lab.mesh.meshctl("apply", "-f", "-", text=service("v1") + service("v2"))
    lab.mesh.wait_services({"api": 2, "api-v1": 1, "api-v2": 1})
    yield lab
    lab.mesh.wait_applied(lab.mesh.commit({}, [f"{PREFIX}services/default/api-{version}" for version in BY]))


@pytest.fixture
def mesh(versions: Lab) -> Iterator[Lab]:
    """Have no route and no policy of `api` before and after."""
    yield versions
    for key in (ROUTE_KEY, POLICY_KEY):
        # To delete what is not there is no change that a node could hear of.
        if versions.mesh.etcdctl("get", "--keys-only", key).strip():
            versions.mesh.wait_applied(versions.mesh.delete(key))


def load(lab: Lab, rate: float = RATE) -> AbstractContextManager[OpenLoad]:
    """Ask for `api` from the calling host at a steady rate."""
    return open_load(
        lab.mesh.processes,
        HTTP_PORT,
        rate=rate,
        address=lab.virtual["api"][0],
        prefix=lab.caller.host.prefix,
    )


def get(lab: Lab, path: str) -> tuple[int, str]:
    """Ask once from the calling host; give the status and who answered."""
    answer = lab.caller.host.get(f"http://api.mesh{path}", "--path-as-is")
    return answer.status, json.loads(answer.text)["answered"][0] if answer.status == 200 else ""


def wait_answer(lab: Lab, path: str, wanted: tuple[int, str]) -> None:
    """Wait until a path is answered so."""
    wait_until(lambda: get(lab, path) == wanted, what=f"{wanted} for {path}", deadline=PATIENCE, pause=0.1)


def time_edit(edit: Callable[[], object], asking: OpenLoad, version: str) -> tuple[float, float]:
    """Edit by a program; give the seconds from its start, and from its end, to a version's first answer.

    The write is between the two.
    """
    began = time.monotonic()
    edit()
    ended = time.monotonic()
    asking.wait_for(lambda done: since(done, began, version), f"an answer of {version}")
    first = min(each.ended for each in since(asking.done(), began, version))
    return first - began, first - ended


def since(done: list[Done], began: float, version: str) -> list[Done]:
    """Give what a version has answered of what was asked since then."""
    return [each for each in done if each.sent > began and each.by == BY[version]]


def test_canary(mesh: Lab) -> None:
    """A canary by meshctl, then all of it by etcdctl, under load: both soon in force, and nothing fails."""
    mesh.mesh.wait_applied(mesh.mesh.put(ROUTE_KEY, route(to(1, 0))))
    with load(mesh) as asking:
        asking.wait(100)
        canary = route(to(90, 10))
        apply(mesh, canary, asking, "v2")
        divided = time.monotonic()
        asking.wait(600)
        before = time.monotonic()
        mesh.mesh.put(ROUTE_KEY, route(to(0, 100)))
        written = time.monotonic()
        asking.wait_for(lambda done: done[-1].sent > written + 2 * SOON, "two seconds after the write")
        done = asking.stop()
    between = Counter(each.by for each in done if divided < each.sent and each.ended < before)
    last = max((each.sent for each in done if each.by == BY["v1"]), default=before)
    print(f"v1 was last asked {last - before:.3f} s after the start of etcdctl")
    assert [each for each in done if each.failed] == []
    # Four standard deviations of six hundred draws.
    assert 0.05 < between[BY["v2"]] / between.total() < 0.15
    assert last - before < SOON


def test_in_force(mesh: Lab) -> None:
    """Edits by etcdctl and meshctl, back and forth under load, are met by an answer within a second."""
    mesh.mesh.wait_applied(mesh.mesh.put(ROUTE_KEY, route(to(1, 0))))
    with load(mesh) as asking:
        put(mesh, route(to(0, 1)), asking, "v2")
        apply(mesh, route(to(1, 0)), asking, "v1")
        done = asking.stop()
    assert [each for each in done if each.failed] == []


def put(lab: Lab, text: str, asking: OpenLoad, version: str) -> None:
    """Write a route with etcdctl, and see it in force."""
    whole, _ = time_edit(lambda: lab.mesh.put(ROUTE_KEY, text), asking, version)
    print(f"etcdctl: in force {whole:.3f} s after its start")
    assert whole < SOON


def apply(lab: Lab, text: str, asking: OpenLoad, version: str) -> None:
    """Write a route with meshctl, and see it in force."""
    whole, after = time_edit(lambda: lab.mesh.meshctl("apply", "-f", "-", text=text), asking, version)
    # Most of the time from its start is that of a program in Python that starts.
    print(f"meshctl: in force {after:+.3f} s after its end, {whole:.3f} s after its start")
    assert after < SOON


def test_malformed_route(mesh: Lab) -> None:
    """The last good route stays in force, and `meshctl proxy status` names key, error and node."""
    good = mesh.mesh.put(ROUTE_KEY, route(to(0, 1)))
    mesh.mesh.wait_applied(good)
    assert {get(mesh, "/") for _ in range(5)} == {(200, BY["v2"])}
    mesh.mesh.put(ROUTE_KEY, route({**to(1, 0), "matches": [{"path": {"type": "Regex", "value": "/"}}]}))
    wait_until(
        lambda: all(item["rejected"] for item in status(mesh)),
        what="every node to reject it",
        deadline=PATIENCE,
    )
    for item in status(mesh):
        (rejected,) = item["rejected"]
        assert rejected["key"].endswith("httproutes/default/api")
        assert "Regex" in rejected["reason"]
        assert rejected["lastGoodRevision"] == good
    table = mesh.mesh.meshctl("proxy", "status", check=False).stdout
    for part in ("web-1", "app-1", "app-2", "httproutes/default/api", "Regex"):
        assert part in table
    assert {get(mesh, "/") for _ in range(5)} == {(200, BY["v2"])}
    mesh.mesh.put(ROUTE_KEY, route(to(1, 0)))
    wait_answer(mesh, "/", (200, BY["v1"]))
    wait_until(
        lambda: not any(item["rejected"] for item in status(mesh)), what="no rejection", deadline=PATIENCE
    )


def status(lab: Lab) -> list[dict[str, Any]]:
    """Give what `meshctl proxy status` says of each node."""
    items: list[dict[str, Any]] = lab.mesh.meshctl_json("proxy", "status", ok=(0, 1))["items"]
    return items


def test_fault(mesh: Lab) -> None:
    """A fault is injected where its policy says, is shown while it is on, and is gone with the policy."""
    fault = {
        "name": "teapot",
        "matches": [{"path": {"type": "PathPrefix", "value": "/broken"}}],
        "abort": {"percent": 100, "httpStatus": 418},
    }
    assert not any(item["faults"] for item in status(mesh))
    mesh.mesh.meshctl("apply", "-f", "-", text=policy(faults=[fault]))
    wait_answer(mesh, "/broken/x", (418, ""))
    assert get(mesh, "/whole")[0] == 200
    wait_until(
        lambda: all("teapot" in str(item["faults"]) for item in status(mesh)),
        what="every node to tell of the fault",
        deadline=PATIENCE,
    )
    table = mesh.mesh.meshctl("proxy", "status").stdout
    assert "teapot" in table
    assert "418" in table
    mesh.mesh.wait_applied(mesh.mesh.delete(POLICY_KEY))
    assert get(mesh, "/broken/x")[0] == 200
    wait_until(lambda: not any(item["faults"] for item in status(mesh)), what="no fault", deadline=PATIENCE)
    assert "teapot" not in mesh.mesh.meshctl("proxy", "status").stdout


def test_limit_of_the_mesh(mesh: Lab) -> None:
    """One limit over two nodes, of which one is asked far more: as many pass as it says, within a tenth."""
    limit = {"name": "all", "requests": LIMIT, "burst": 10, "scope": "Mesh"}
    mesh.mesh.put(ROUTE_KEY, route(to(85, 15)))
    mesh.mesh.wait_applied(mesh.mesh.put(POLICY_KEY, policy(rateLimits=[limit])))
    settling, measuring = 6.0, 6.0
    with load(mesh, rate=3 * LIMIT) as asking:
        began = time.monotonic() + settling
        time.sleep(settling + measuring)
        done = asking.stop()
    measured = [each for each in done if began <= each.ended < began + measuring]
    passed = Counter(each.by for each in measured if each.status == 200)
    print(f"{passed.total() / measuring:.1f}/s of {len(measured) / measuring:.1f}/s pass: {dict(passed)}")
    assert {(each.status, each.reason) for each in measured if each.failed} == {(429, "rate_limited")}
    assert min(passed[by] for by in BY.values()) > 0
    assert 0.9 * LIMIT <= passed.total() / measuring <= 1.1 * LIMIT


def test_explain(mesh: Lab) -> None:
    """What `meshctl route explain` says of a request is what becomes of it."""
    rules = (
        {"matches": [{"path": {"type": "Exact", "value": "/one"}}], **to(1, 0)},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/two"}}], **to(0, 1)},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/both"}}], **to(50, 50)},
    )
    mesh.mesh.wait_applied(mesh.mesh.put(ROUTE_KEY, route(*rules)))
    for path in ("/one", "/two/x", "/both", "/one/x", "/a/../two"):
        said = mesh.mesh.meshctl_json(
            "route", "explain", "--to", "api", "--path", path, "--from", "default/web", ok=(0, 1)
        )
        found = {get(mesh, path) for _ in range(10)}
        if said["status"]:
            assert found == {(said["status"], "")}, path
            continue
        assert found == {
            (200, f"api@{endpoint['node']}")
            for backend in said["backends"]
            if backend["share"] > 0
            for endpoint in backend["endpoints"]
        }, path
        assert [match["route"] for match in said["matches"] if match["chosen"]] == ["default/api"]
    assert said["target"] == "/two"
