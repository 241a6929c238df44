"""Routes and backend policies on their way into the snapshot."""

from typing import Any

import msgspec
import pytest

from node_proxy.agent.compile import Compiled, Compiler
from node_proxy.agent.faults import faults_in_force
from node_proxy.agent.in_use import Standing
from node_proxy.agent.records import MAX_FAULTS, own_resources, own_status
from node_proxy.agent.state import MeshState
from node_proxy.config import NodeConfig, WorkloadConfig
from node_proxy.snapshot import Snapshot
from registry.model.backend_policy import BackendPolicy
from registry.model.parse import from_builtins
from registry.model.resource import Resource
from registry.model.service import PortProtocol
from registry.model.workload import Node
from tests.node_proxy.agent.documents import BAD, TRUST_DOMAIN, changed, node_config, node_with
from tests.registry.model.documents import BACKEND_POLICY, GRPC_ROUTE, HTTP_ROUTE, SERVICE, TCP_ROUTE

PLACES = {"HTTPRoute": "httproutes", "GRPCRoute": "grpcroutes", "TCPRoute": "tcproutes"}


def resource(document: dict[str, Any], name: str = "web", **spec: Any) -> Resource:
    """Give a document's resource under another name, with fields of its spec replaced."""
    return from_builtins(
        {**document, "metadata": {"name": name}, "spec": {**document["spec"], **spec}}, where="key"
    )


def web(protocol: str = "http") -> Resource:
    """Give the service web."""
    return resource(SERVICE, ports=[{"port": 80, "protocol": protocol}])


def policy(name: str, **spec: Any) -> Resource:
    """Give a policy for web."""
    return resource(BACKEND_POLICY, name, **spec)


def fault(**fields: Any) -> BackendPolicy:
    """Give a policy with one fault."""
    made = policy("p", faults=[{"name": "slow", **fields}])
    assert isinstance(made, BackendPolicy)
    return made


def compiled(*events: tuple[str, Resource | bytes, int], config: NodeConfig | None = None) -> Compiled:
    """Compile what was written, each at the revision at which its key was made."""
    state = MeshState(trust_domain=TRUST_DOMAIN)
    for revision, (key, value, created) in enumerate(events, start=100):
        state.apply(changed(key, value, revision, created=created))
    return Compiler(config or node_config(), trust_domain=TRUST_DOMAIN).compile(state, own={}, now=0)


@pytest.mark.parametrize(
    ("document", "field"),
    [(HTTP_ROUTE, "http_routes"), (GRPC_ROUTE, "grpc_routes"), (TCP_ROUTE, "tcp_routes")],
)
def test_routes(document: dict[str, Any], field: str) -> None:
    """Every route is in the snapshot with the revision at which it was made, the oldest first."""
    plural = PLACES[document["kind"]]
    young, old = resource(document, "a"), resource(document, "z")
    snapshot = compiled((f"{plural}/default/a", young, 7), (f"{plural}/default/z", old, 5)).snapshot
    assert getattr(snapshot, field) == ((old, 5), (young, 7))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=Snapshot)
    assert again == snapshot


def test_a_bad_route_keeps_the_last_good() -> None:
    """A route that does not parse leaves the last good one, as old as it was, and closes no namespace."""
    route = resource(HTTP_ROUTE)
    found = compiled(
        ("httproutes/default/web", route, 7),
        ("httproutes/default/web", BAD, 7),
        ("httproutes/default/never", BAD, 8),
        ("backendpolicies/default/never", BAD, 9),
    )
    assert found.snapshot.http_routes == ((route, 7),)
    assert found.snapshot.closed_namespaces == {}


def test_one_policy_for_each_service() -> None:
    """Only the older of two policies for a service is in the snapshot; the other is rejected by name."""
    young, old = policy("a"), policy("z")
    found = compiled(
        ("services/default/web", web(), 1),
        ("backendpolicies/default/a", young, 7),
        ("backendpolicies/default/z", old, 5),
    )
    assert found.snapshot.backend_policies == (old,)
    (rejection,) = found.rejections
    assert (rejection.key, rejection.last_good_revision) == ("backendpolicies/default/a", 101)
    assert "default/z, which is older" in rejection.reason


def test_a_route_on_a_wrong_port_is_rejected() -> None:
    """A route whose parent does not speak its protocol is reported by the node; warnings are not."""
    found = compiled(
        ("services/default/web", web("tcp"), 1),
        ("httproutes/default/web", resource(HTTP_ROUTE), 2),
        ("tcproutes/default/web", resource(TCP_ROUTE), 3),
        ("httproutes/default/gone", resource(HTTP_ROUTE, "gone", parentRefs=[{"name": "gone"}]), 4),
    )
    assert [each.key for each in found.rejections] == ["httproutes/default/web"]
    assert "have no effect there: default/web speaks only tcp" in found.rejections[0].reason


def test_protocols_of_local_workloads() -> None:
    """A workload knows what its ports speak, by the services it is behind; others are tcp."""
    config = node_config(WorkloadConfig(name="web", ports=(80, 81), labels={"app": "web"}))
    found = compiled(("services/default/web", web("grpc"), 1), config=config)
    (local,) = found.snapshot.local
    assert local.protocols == {80: PortProtocol.GRPC, 81: PortProtocol.TCP}


def test_places() -> None:
    """This node's region and zone, and those of every endpoint, are in the snapshot."""
    config = node_config()
    proxy = msgspec.structs.replace(config.proxy, region="eu", zone="eu-1")
    config = msgspec.structs.replace(config, proxy=proxy)
    record, workload = (event.item for event in node_with("web-2", 5, app="web"))
    placed = Node(
        api_version="nodemesh/v1",
        kind="Node",
        metadata=msgspec.json.decode(record.value, type=Node).metadata,
        spec=msgspec.structs.replace(
            msgspec.json.decode(record.value, type=Node).spec, region="us", zone="us-2"
        ),
    )
    service = resource(SERVICE, ports=[{"port": 80, "targetPort": 8080}])
    snapshot = compiled(
        ("services/default/web", service, 1),
        (record.key, placed, 2),
        (workload.key, workload.value, 3),
        config=config,
    ).snapshot
    assert (snapshot.region, snapshot.zone) == ("eu", "eu-1")
    (endpoint,) = snapshot.services[0].ports[0].endpoints
    assert (endpoint.region, endpoint.zone) == ("us", "us-2")
    own = own_resources(
        config, trust_domain=TRUST_DOMAIN, tunnel_port=15008, boot_id="", version="", health={}
    )
    (node,) = own.values()
    assert isinstance(node, Node)
    assert (node.spec.region, node.spec.zone) == ("eu", "eu-1")


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (
            fault(delay={"percent": 10, "duration": "5s"}),
            "slow of BackendPolicy default/p: of requests to default/web 10 % wait 5s",
        ),
        (
            fault(abort={"percent": 0.5, "httpStatus": 503}, matches=[{"method": "GET"}]),
            "slow of BackendPolicy default/p: of some requests to default/web 0.5 % are answered with 503",
        ),
        (
            fault(delay={"percent": 1, "duration": "1s"}, abort={"percent": 2, "grpcStatus": 14}),
            "slow of BackendPolicy default/p: of requests to default/web 1 % wait 1s and 2 % are answered "
            "with gRPC status 14",
        ),
        (fault(abort={"percent": 0, "httpStatus": 503}), None),
    ],
)
def test_faults_in_words(policy: BackendPolicy, line: str | None) -> None:
    """Each fault that strikes any request is one line, and one that is at 0 % is off."""
    assert faults_in_force([policy]) == ((line,) if line else ())


def test_faults_of_a_beaten_policy_are_off() -> None:
    """Only the faults of policies that count are in force."""
    found = compiled(
        ("services/default/web", web(), 1),
        ("backendpolicies/default/p", fault(abort={"percent": 1, "httpStatus": 503}), 7),
        ("backendpolicies/default/old", policy("old"), 5),
    )
    assert found.faults == ()


def test_the_status_stays_small() -> None:
    """A node shows its faults in its status, and of very many only the first."""

    def shown(count: int) -> tuple[str, ...]:
        (status,) = own_status(
            "web-1",
            applied_revision=1,
            rejected=(),
            certificate_expires=None,
            in_use=Standing(),
            revoked=(),
            workers=1,
            faults=[f"fault {i}" for i in range(count)],
        ).values()
        return status.spec.faults

    assert len(shown(MAX_FAULTS)) == MAX_FAULTS
    assert shown(MAX_FAULTS + 1)[-1].startswith("2 more faults")
    assert len(shown(MAX_FAULTS + 1)) == MAX_FAULTS
