"""A decision from the worker that took it to the operator who asks about it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest

from node_proxy.agent.decisions import DecisionBook
from registry.cli.client import RegistryClient, connect
from registry.cli.config import Settings
from registry.model.authorization import Action
from registry.model.decision import Outcome
from registry.model.parse import render
from tests.integration.certificates import Authority
from tests.integration.pair import API, WEB, Pair, run_pair
from tests.integration.snapshots import local, policy, snapshot
from tests.integration.workloads import Workload, echo, is_closed, read_exactly, run_workload
from tests.registry.cli.backends import RealBackend, open_real

NO_WEB = policy("no-web", Action.DENY, principals=(WEB.removeprefix("spiffe://"),))


@pytest.fixture
def workload() -> Iterator[Workload]:
    """Run an echo workload."""
    with run_workload(echo) as running:
        yield running


@pytest.fixture
def pair(authority: Authority, workload: Workload) -> Iterator[Pair]:
    """Run two workers with the echo workload as service `echo`."""
    with run_pair(authority, {"echo": [workload.port]}) as running:
        yield running


def reaches(pair: Pair) -> bool:
    """Whether a new connection reaches the workload."""
    try:
        # On a busy machine the refusal may be there before the connect has returned.
        with pair.call("echo") as connection:
            connection.sendall(b"hello")
            return read_exactly(connection, 5) == b"hello"
    except ConnectionError:
        return False


def register(backend: RealBackend, workload: Workload) -> None:
    """Put into the registry's store what the far host and an operator would."""
    envelope = {"apiVersion": "nodemesh/v1"}
    root = {"name": "far", "namespace": "nodemesh-system"}
    documents = {
        "enrolments/far": {
            "kind": "Enrolment",
            "metadata": root,
            "spec": {"node": "far", "identities": [API], "enrolledAt": "2020-01-01T00:00:00Z"},
        },
        "nodes/far/record": {"kind": "Node", "metadata": root, "spec": {"address": "127.0.0.3"}},
        "nodes/far/workloads/default/api": {
            "kind": "Workload",
            "metadata": {"name": "api", "labels": {"app": "api"}},
            "spec": {"node": "far", "identity": API, "ports": [workload.port]},
        },
    }
    for key, document in documents.items():
        backend.put_signed(key, json.dumps(envelope | document).encode())
    backend.put("authorizationpolicies/default/no-web", render(NO_WEB))


def test_a_denial_is_the_same_at_both_ends_and_can_be_explained(pair: Pair, workload: Workload) -> None:
    """Both proxies log a denial's policy and id in fields of their own, and the registry explains that id."""
    pair.enforce(NO_WEB)
    assert not reaches(pair)
    far = pair.far.wait_log("stream refused", status=403)
    near = pair.near.wait_log("stream refused", side="source")
    assert (near["reason"], near["policy"], near["id"]) == ("denied", "default/no-web", far["id"])
    assert far["policy"] == "default/no-web"

    told = pair.far.wait_decided(far["id"])
    assert (told.outcome, told.source, told.destination) == (Outcome.DENIED, WEB, "default/api")
    assert (told.source_ip, told.destination_ip) == (far["source_ip"], "127.0.0.3")
    book = DecisionBook("far", lambda: datetime.now(UTC))
    book.take([told])
    with open_real() as backend:
        register(backend, workload)
        backend.put("nodes/far/decisions", render(book.resource()))
        settings = Settings(server="https://registry.test", token=backend.token, ca_pem="")
        with connect(settings, transport=backend.transport) as http:
            (found,) = RegistryClient(http).authz_explain(far["id"]).items
            assert (found.decision.policy, found.decision.source) == ("default/no-web", WEB)
            assert found.now is not None
            assert (found.now.outcome, found.now.policy, found.differs) == ("denied", "default/no-web", False)


def test_a_permit_can_be_found_by_the_access_log(pair: Pair) -> None:
    """The destination's line of a connection names the decision that let it in."""
    assert reaches(pair)
    line = pair.far.wait_log("connection closed", side="inbound")
    told = pair.far.wait_decided(line["id"])
    assert (told.outcome, told.count) == (Outcome.PERMITTED, 1)


def test_denials_are_counted_at_both_ends(pair: Pair) -> None:
    """The metric of denials says who was denied what by which policy; the caller's end names no policy."""
    pair.enforce(NO_WEB)
    for _ in range(3):
        assert not reaches(pair)
    for worker, side, by, destination in (
        (pair.far, "destination", "default/no-web", "default/api"),
        (pair.near, "source", "", "default/echo"),
    ):
        worker.wait_report()
        samples = {
            sample.labels: sample.value
            for sample in worker.wait_report().samples
            if sample.name == "nodemesh_denials_total"
        }
        labels = {"side": side, "reason": "denied", "policy": by, "source": WEB, "destination": destination}
        assert samples == {tuple(sorted(labels.items())): 3.0}


def test_grace(pair: Pair, workload: Workload) -> None:
    """With a grace an open connection goes on after its denial, and is cut when the grace ends."""
    with pair.call("echo") as connection:
        connection.sendall(b"hello")
        assert read_exactly(connection, 5) == b"hello"
        state = snapshot(pair.far, revision=2, workloads=(local("api", workload.port),), policies=(NO_WEB,))
        pair.far.give_snapshot(msgspec.structs.replace(state, enforcement_grace=1))
        denied = pair.far.wait_log("stream denied", policy="default/no-web")
        connection.sendall(b"still")
        assert read_exactly(connection, 5) == b"still"
        assert not reaches(pair)
        assert is_closed(connection)
    assert pair.far.wait_log("stream cut")["id"] == denied["id"]
