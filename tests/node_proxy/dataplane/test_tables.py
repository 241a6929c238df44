import msgspec
import pytest

from node_proxy.dataplane.tables import Tables
from node_proxy.snapshot import ServicePortView, ServiceView
from registry.model.authorization import (
    Action,
    AuthorizationPolicySpec,
    Rule,
    TargetKind,
    TargetRef,
    WorkloadSelector,
)
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from registry.model.mesh import DefaultAuthorization
from registry.model.peer_authentication import (
    MtlsMode,
    MutualTls,
    PeerAuthentication,
    PeerAuthenticationSpec,
)
from registry.model.resource import Metadata
from registry.model.service import PortProtocol
from registry.rules import AuthRequest, Denied, Permit, authorize
from tests.fakes.context import ADDRESS, snapshot
from tests.integration.certificates import TRUST_DOMAIN, spiffe
from tests.integration.snapshots import endpoint, local, policy, service

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
API_ENDPOINT = endpoint("api-1", "10.77.0.2", 15008, 8080, identity=spiffe("api"))
API = ServiceView(
    name="default/api",
    vips=("240.240.0.1", "fd6d:6573:6800:0::1"),
    ports=(
        ServicePortView(port=80, protocol=PortProtocol.HTTP, endpoints=(API_ENDPOINT,)),
        ServicePortView(port=9090, protocol=PortProtocol.TCP, endpoints=()),
    ),
)


def decided(tables: Tables, port: int, source: Identity | None = WEB) -> Permit | Denied:
    """Say what the policies behind a port say of web, or of another caller."""
    found = tables.local(port)
    assert found is not None
    return authorize(found.policies, AuthRequest(source, port))


def test_service_by_name() -> None:
    """A service port is found by the service's name and the port."""
    route = Tables(snapshot(services=(API,))).by_name("default/api", 80)
    assert route is not None
    assert (route.service, route.port, route.endpoints) == ("default/api", 80, (API_ENDPOINT,))


def test_service_by_endpoint() -> None:
    """A service port is found by an endpoint's address too, and leads to that endpoint alone."""
    other = endpoint("api-2", "fd77:0::2", 15008, 8080, identity=spiffe("api"))
    both = msgspec.structs.replace(API.ports[0], endpoints=(API_ENDPOINT, other))
    tables = Tables(snapshot(services=(msgspec.structs.replace(API, ports=(both,)),)))
    for address, each in (("10.77.0.2", API_ENDPOINT), ("fd77::2", other)):
        route = tables.by_endpoint(address, 8080)
        assert route is not None
        assert (route.service, route.port, route.endpoints) == ("default/api", 80, (each,))
    assert tables.by_endpoint("10.77.0.2", 80) is None


@pytest.mark.parametrize("vip", ["240.240.0.1", "fd6d:6573:6800::1"])
def test_service_by_virtual_ip(vip: str) -> None:
    """The same by each virtual IP, whatever its spelling in the snapshot."""
    tables = Tables(snapshot(services=(API,)))
    assert tables.by_vip(vip, 80) is tables.by_name("default/api", 80)


def test_port_without_endpoints_is_known() -> None:
    """A port that nobody serves is a route with nothing behind it, not an unknown destination."""
    route = Tables(snapshot(services=(API,))).by_name("default/api", 9090)
    assert route is not None
    assert route.endpoints == ()


def test_unknown_destinations() -> None:
    """Another name, port or address is found by no table."""
    tables = Tables(snapshot(services=(API,)))
    assert tables.by_name("default/api", 81) is None
    assert tables.by_name("default/db", 80) is None
    assert tables.by_vip("240.240.0.2", 80) is None
    assert tables.by_vip("240.240.0.1", 81) is None


def test_services_do_not_mix() -> None:
    """Each service has its own routes."""
    db = service("default/db", 80, endpoint("db-1", "10.77.0.3", 15008, 5432, identity=spiffe("db")))
    tables = Tables(snapshot(services=(API, db)))
    api_route, db_route = tables.by_name("default/api", 80), tables.by_name("default/db", 80)
    assert api_route is not None
    assert db_route is not None
    assert api_route.endpoints != db_route.endpoints


def test_own_addresses_in_canonical_text() -> None:
    """The node's addresses compare with those of a CONNECT, whatever their spelling."""
    tables = Tables(snapshot(addresses=("10.77.0.1", "fd00:0:0:0::1")))
    assert tables.addresses == {"10.77.0.1", "fd00::1"}


def test_local_workload_by_port() -> None:
    """Each port of a registered workload leads to it."""
    tables = Tables(snapshot(workloads=(local("web", 8080, 8081), local("api", 9090))))
    for port, name in ((8080, "default/web"), (8081, "default/web"), (9090, "default/api")):
        found = tables.local(port)
        assert found is not None
        assert found.workload.name == name
    assert tables.local(22) is None


def test_policies_of_the_selected_workload() -> None:
    """A policy guards the workloads that it selects, and no others."""
    denied = policy("no-web", Action.DENY, principals=(WEB.principal,), app="api")
    tables = Tables(snapshot(workloads=(local("web", 8080), local("api", 9090)), policies=(denied,)))
    assert isinstance(decided(tables, 9090), Denied)
    assert isinstance(decided(tables, 8080), Permit)


def test_default_of_the_mesh() -> None:
    """Where no policy decides, the mesh's default does."""
    tables = Tables(snapshot(workloads=(local("api", 9090),), default=DefaultAuthorization.DENY))
    assert isinstance(decided(tables, 9090), Denied)


@pytest.mark.parametrize(
    ("closed", "open_ports"),
    [
        ({"default": "authorizationpolicies/default/bad"}, {9191}),
        ({"*": "authorizationpolicies/nodemesh-system/bad"}, set()),
        ({"elsewhere": "authorizationpolicies/elsewhere/bad"}, {9090, 9191}),
    ],
    ids=["own", "every", "another"],
)
def test_closed_namespace(closed: dict[str, str], open_ports: set[int]) -> None:
    """A policy that never parsed closes its namespace; one of the root namespace closes all."""
    workloads = (local("api", 9090), local("db", 9191, namespace="prod"))
    tables = Tables(snapshot(workloads=workloads, closed=closed))
    assert {port for port in (9090, 9191) if isinstance(decided(tables, port), Permit)} == open_ports


@pytest.mark.parametrize("source", [None, NodeIdentity(TRUST_DOMAIN, "web-1")])
def test_callers_without_identity(source: NodeIdentity | None) -> None:
    """Whether a workload lets in callers without an identity is what PeerAuthentication says of its port."""
    permissive = PeerAuthentication(
        api_version="security.istio.io/v1",
        kind="PeerAuthentication",
        metadata=Metadata(name="metrics"),
        spec=PeerAuthenticationSpec(
            selector=WorkloadSelector(match_labels={"app": "api"}),
            port_level_mtls={"9191": MutualTls(mode=MtlsMode.PERMISSIVE)},
        ),
    )
    state = snapshot(workloads=(local("api", 9090, 9191), local("web", 8080)))
    tables = Tables(msgspec.structs.replace(state, peer_authentications=(permissive,)))
    assert isinstance(decided(tables, 9090, source), Denied)
    assert isinstance(decided(tables, 9191, source), Permit)
    assert isinstance(decided(tables, 8080, source), Denied)
    open_mesh = Tables(msgspec.structs.replace(state, mtls_mode=MtlsMode.PERMISSIVE))
    assert isinstance(decided(open_mesh, 9090, source), Permit)


def test_policies_attached_to_a_service() -> None:
    """A policy attached to a Service guards the workloads behind it."""
    attached = msgspec.structs.replace(
        policy("attached", Action.DENY, principals=(WEB.principal,)),
        spec=AuthorizationPolicySpec(
            action=Action.DENY,
            rules=(Rule(),),
            target_refs=(TargetRef(kind=TargetKind.SERVICE, name="front"),),
        ),
    )
    behind = msgspec.structs.replace(local("api", 9090), services=("default/front",))
    tables = Tables(snapshot(workloads=(behind, local("web", 8080)), policies=(attached,)))
    assert isinstance(decided(tables, 9090), Denied)
    assert isinstance(decided(tables, 8080), Permit)


def test_unchanged_policies_are_taken_over() -> None:
    """New tables take over what the former ones have made of the policies that are still the same."""
    state = snapshot(workloads=(local("api", 9090),), policies=(policy("p", Action.ALLOW),))
    former = Tables(state)
    found, before = Tables(state, former).local(9090), former.local(9090)
    assert found is not None
    assert before is not None
    assert found.policies.asked is before.policies.asked


@pytest.mark.parametrize(
    ("node", "address", "believed"),
    [
        ("app-1", "10.77.0.2", True),
        ("app-6", "fd77::6", True),
        ("app-1", "10.77.0.3", False),
        ("app-2", "10.77.0.9", False),
        ("app-3", "10.77.0.9", False),
        ("app-4", ADDRESS, False),
        ("", "10.77.0.2", False),
        ("stranger", "10.77.0.2", False),
    ],
)
def test_address_of_a_node(node: str, address: str, believed: bool) -> None:
    """A node may speak from the address of its record, if nobody else claims it and it is not this host's."""
    nodes = {
        "app-1": "10.77.0.2",
        "app-2": "10.77.0.9",
        "app-3": "10.77.0.9",
        "app-4": ADDRESS,
        "app-6": "fd77:0::6",
    }
    tables = Tables(msgspec.structs.replace(snapshot(), nodes=nodes))
    assert tables.is_address_of(node, address) is believed
