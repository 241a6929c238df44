import msgspec
import pytest

from node_proxy.agent.compile import Compiled, Compiler
from node_proxy.agent.state import MeshState
from node_proxy.config import WorkloadConfig
from node_proxy.snapshot import Endpoint, OwnerRule
from registry.model.mesh import DefaultAuthorization
from registry.model.peer_authentication import MtlsMode
from registry.model.resource import Resource
from registry.model.workload import Health, Node, Workload
from tests.node_proxy.agent.documents import (
    BAD,
    TRUST_DOMAIN,
    changed,
    mesh,
    node,
    node_config,
    node_with,
    peers,
    policy,
    removed,
    service,
    spiffe,
    vips,
    workload,
)


class Mesh:
    """A state and a compiler beside it."""

    def __init__(self, *workloads: WorkloadConfig) -> None:
        self.own: dict[str, Node | Workload] = {}
        self.state = MeshState(trust_domain=TRUST_DOMAIN)
        self.compiler = Compiler(node_config(*workloads), trust_domain=TRUST_DOMAIN)
        self.revision = 1

    def put(self, key: str, value: Resource | bytes) -> None:
        """Write a value."""
        self.revision += 1
        self.state.apply(changed(key, value, self.revision, created=1))

    def add_node(self, name: str) -> None:
        """Register a node with one workload of api."""
        self.revision += 1
        for event in node_with(name, self.revision):
            self.state.apply(event)

    def remove_node(self, name: str) -> None:
        """Let a node's lease end."""
        self.revision += 1
        self.state.apply(removed(f"nodes/{name}/record", self.revision))
        self.state.apply(removed(f"nodes/{name}/workloads/default/api", self.revision))

    def compile(self) -> Compiled:
        """Compile at one moment."""
        return self.compiler.compile(self.state, own=self.own, now=0)

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints of the first port of the only service."""
        (view,) = self.compile().snapshot.services
        return list(view.ports[0].endpoints)


@pytest.fixture
def api() -> Mesh:
    meshed = Mesh()
    meshed.put("services/default/api", service())
    meshed.add_node("api-1")
    return meshed


def test_endpoint_of_a_registered_workload(api: Mesh) -> None:
    """A workload with the right labels, identity and port is an endpoint, reached through its node."""
    assert api.endpoints() == [
        Endpoint(
            node="api-1",
            workload="default/api",
            address="10.77.0.2",
            port=8080,
            tunnel_port=15008,
            identity=spiffe("api"),
            server_name="api.default.sa.nodemesh.local",
            weight=100,
            healthy=True,
        )
    ]
    assert api.compile().exclusions == ()


def test_right_labels_but_wrong_identity(api: Mesh) -> None:
    """Labels alone bring no traffic, and the reason can be read."""
    api.put("nodes/api-1/workloads/default/api", workload(on="api-1", identity=spiffe("thief")))
    assert api.endpoints() == []
    (exclusion,) = api.compile().exclusions
    assert exclusion.service == "default/api"
    assert exclusion.workload == "default/api"
    assert "sa/thief is not one that may serve this name" in exclusion.reason


def test_listed_identities(api: Mesh) -> None:
    """A service that lists identities is served by those alone."""
    api.put("services/default/api", service(identities=["shop/backend"]))
    assert api.endpoints() == []
    identity = spiffe("backend", "shop")
    api.put("nodes/api-1/workloads/default/api", workload(on="api-1", identity=identity))
    assert [each.server_name for each in api.endpoints()] == ["backend.shop.sa.nodemesh.local"]


def test_port_not_offered(api: Mesh) -> None:
    """A workload without the target port is left out of that port."""
    api.put("nodes/api-1/workloads/default/api", workload(on="api-1", ports=(9090, 9091)))
    assert api.endpoints() == []
    (exclusion,) = api.compile().exclusions
    assert exclusion.port == 80
    assert exclusion.reason == "it does not offer port 8080, only 9090, 9091"


def test_other_labels_are_not_selected(api: Mesh) -> None:
    """A workload the service does not select is no endpoint and no exclusion."""
    api.put("nodes/api-1/workloads/default/api", workload(on="api-1", app="web", identity=spiffe("api")))
    assert api.endpoints() == []
    assert api.compile().exclusions == ()


def test_node_without_a_record(api: Mesh) -> None:
    """A workload whose node says nothing of itself cannot be reached."""
    api.state.apply(removed("nodes/api-1/record", 9))
    assert api.endpoints() == []
    assert api.compile().exclusions[0].reason == "node api-1 has no record"


def test_unhealthy_endpoint_is_kept_and_marked(api: Mesh) -> None:
    """The workers decide what to do with an unhealthy endpoint."""
    api.put("nodes/api-1/workloads/default/api", workload(on="api-1", health=Health.UNHEALTHY))
    assert [each.healthy for each in api.endpoints()] == [False]


def test_vips_come_from_the_controller(api: Mesh) -> None:
    """Virtual IPs are those that the status of the service names."""
    assert api.compile().snapshot.services[0].vips == ()
    api.put("status/services/default/api", vips("api", "240.240.0.1", "fd6d:6573:6800::1"))
    assert api.compile().snapshot.services[0].vips == ("240.240.0.1", "fd6d:6573:6800::1")


def test_grace(api: Mesh) -> None:
    """The grace that open connections have is in the snapshot; without a word there is none."""
    assert api.compile().snapshot.enforcement_grace == 0
    settings = mesh()
    spec = msgspec.structs.replace(settings.spec, enforcement_grace=30)
    api.put("mesh", msgspec.structs.replace(settings, spec=spec))
    assert api.compile().snapshot.enforcement_grace == 30


def test_policies_and_defaults(api: Mesh) -> None:
    """Every policy in force, the mesh's default and the closed namespaces are in the snapshot."""
    api.put("mesh", mesh(DefaultAuthorization.DENY))
    api.put("authorizationpolicies/default/p", policy())
    api.put("authorizationpolicies/default/p", BAD)
    api.put("authorizationpolicies/shop/q", BAD)
    snapshot = api.compile().snapshot
    assert snapshot.default_authorization is DefaultAuthorization.DENY
    assert snapshot.policies == (policy(),)
    assert snapshot.closed_namespaces == {"shop": "authorizationpolicies/shop/q"}
    assert snapshot.revision == api.revision


def test_peer_authentications(api: Mesh) -> None:
    """Every PeerAuthentication in force and the mesh's mode are in the snapshot."""
    assert api.compile().snapshot.mtls_mode is MtlsMode.STRICT
    api.put("mesh", mesh(mtls_mode=MtlsMode.PERMISSIVE))
    api.put("peerauthentications/default/p", peers())
    api.put("peerauthentications/default/p", BAD)
    api.put("peerauthentications/shop/q", BAD)
    snapshot = api.compile().snapshot
    assert snapshot.mtls_mode is MtlsMode.PERMISSIVE
    assert snapshot.peer_authentications == (peers(),)
    assert snapshot.closed_namespaces == {"shop": "peerauthentications/shop/q"}


def test_services_of_local_workloads() -> None:
    """A workload of this host knows which services it is behind, for policies that are attached to them."""
    meshed = Mesh(WorkloadConfig(name="api", ports=(8080,), labels={"app": "api"}))
    meshed.put("services/default/api", service())
    meshed.put("services/default/front", service("front"))
    (local,) = meshed.compile().snapshot.local
    assert local.services == ("default/api",)


@pytest.mark.parametrize(
    ("rule", "rejected"),
    [
        ({"to": [{"operation": {"paths": ["/x"]}}]}, "spec.rules[0].to[0].operation.paths"),
        ({"when": [{"key": "request.headers[x]", "values": ["y"]}]}, "spec.rules[0].when[0].values"),
        (
            {"to": [{"operation": {"paths": ["/x"], "ports": ["8080"]}}]},
            "spec.rules[0].to[0].operation.paths",
        ),
        ({"to": [{"operation": {"paths": ["/x"], "ports": ["81"]}}]}, None),
        ({"to": [{"operation": {"paths": ["/x"], "notPorts": ["8080"]}}]}, None),
        ({"to": [{"operation": {"ports": ["8080"]}}]}, None),
    ],
    ids=["path", "header", "this-port", "another-port", "not-this-port", "no-http"],
)
def test_conditions_on_unread_http(rule: dict[str, object], rejected: str | None) -> None:
    """A rule about requests that concerns a port of this host is in force, and rejected by name."""
    meshed = Mesh(WorkloadConfig(name="api", ports=(8080,), labels={"app": "api"}))
    meshed.put("authorizationpolicies/default/p", policy(rules=[rule]))
    compiled = meshed.compile()
    assert compiled.snapshot.policies == (policy(rules=[rule]),)
    if rejected is None:
        assert compiled.rejections == ()
    else:
        (rejection,) = compiled.rejections
        assert (rejection.key, rejection.last_good_revision) == (
            "authorizationpolicies/default/p",
            meshed.revision,
        )
        assert rejection.reason == (
            f"{rejected}: needs HTTP, and port 8080 of default/api is tcp: the rule allows nothing there; "
            "set the port's protocol to http in the Service, or name other ports under to.operation.ports"
        )


def test_conditions_on_http_of_others() -> None:
    """A policy about requests of workloads that are not this host's is no concern of it."""
    meshed = Mesh(WorkloadConfig(name="api", ports=(8080,), labels={"app": "api"}))
    rules = [{"to": [{"operation": {"paths": ["/x"]}}]}]
    meshed.put("authorizationpolicies/shop/p", policy(namespace="shop", rules=rules))
    meshed.put("authorizationpolicies/default/q", policy("q", rules=rules, app="front"))
    assert meshed.compile().rejections == ()


def test_local_workloads_come_from_the_configuration() -> None:
    """What this host runs is what its operator declared, whatever the store says."""
    meshed = Mesh(
        WorkloadConfig(name="web", account="front", ports=(8080,), labels={"app": "web"}, address="127.0.0.9")
    )
    meshed.put("nodes/web-1/workloads/default/other", workload("other", on="web-1"))
    (local,) = meshed.compile().snapshot.local
    assert local.name == "default/web"
    assert local.identity == spiffe("front")
    assert local.server_name == "front.default.sa.nodemesh.local"
    assert local.dial == "127.0.0.9"
    assert local.ports == (8080,)


def test_own_endpoints_need_no_store(api: Mesh) -> None:
    """Calls within the host reach its own workloads as they are now, whatever the store says of them."""
    api.put("nodes/web-1/record", node("web-1", "192.0.2.1"))
    api.put("nodes/web-1/workloads/default/stale", workload("stale", on="web-1"))
    assert [each.node for each in api.endpoints()] == ["api-1"]
    api.own = {
        "nodes/web-1/record": node("web-1", "10.77.0.1"),
        "nodes/web-1/workloads/default/api": workload(on="web-1", health=Health.UNHEALTHY),
    }
    assert [(each.node, each.workload, each.address, each.healthy) for each in api.endpoints()] == [
        ("api-1", "default/api", "10.77.0.2", True),
        ("web-1", "default/api", "10.77.0.1", False),
    ]


def test_mass_loss_keeps_the_last_known(api: Mesh) -> None:
    """When most endpoints vanish at once they stay; when they are back, what is registered counts."""
    api.add_node("api-2")
    api.add_node("api-3")
    assert len(api.endpoints()) == 3
    for name in ("api-1", "api-2"):
        api.remove_node(name)
    assert [each.node for each in api.endpoints()] == ["api-1", "api-2", "api-3"]
    api.add_node("api-2")
    assert [each.node for each in api.endpoints()] == ["api-2", "api-3"]


def test_kept_endpoints_obey_later_edits(api: Mesh) -> None:
    """An endpoint that is only remembered must still be one that the service may have."""
    api.add_node("api-2")
    api.compile()
    for name in ("api-1", "api-2"):
        api.remove_node(name)
    assert len(api.endpoints()) == 2
    api.put("services/default/api", service(identities=["default/other"]))
    assert api.endpoints() == []


def test_services_and_endpoints_are_ordered(api: Mesh) -> None:
    """The same state gives the same snapshot, whatever the order of events."""
    other = Mesh()
    other.add_node("api-0")
    other.add_node("api-1")
    other.put("services/default/api", service())
    api.add_node("api-0")
    assert other.endpoints() == api.endpoints()


def test_node_on_ipv6(api: Mesh) -> None:
    """Addresses of either family are taken as they are."""
    api.put("nodes/api-1/record", node("api-1", "fd77::2", tunnel_port=16008))
    assert [(each.address, each.tunnel_port) for each in api.endpoints()] == [("fd77::2", 16008)]


def test_owner_of_a_local_workload() -> None:
    """Workers are told which processes speak for a workload of this node."""
    meshed = Mesh(
        WorkloadConfig(name="web", ports=(8080,), unit="web.service", user=33),
        WorkloadConfig(name="any", ports=(8081,)),
    )
    assert [each.owner for each in meshed.compile().snapshot.local] == [
        OwnerRule(unit="web.service", uid=33),
        None,
    ]


def test_wishes_of_a_local_workload() -> None:
    """What a workload wants to know of its callers reaches the workers."""
    here = Mesh(
        WorkloadConfig(name="a", ports=(1,), address="10.77.0.1", preserve_source=True),
        WorkloadConfig(name="b", ports=(2,), proxy_protocol="v2"),
    )
    wishes = [(each.preserve_source, each.proxy_protocol) for each in here.compile().snapshot.local]
    assert wishes == [(True, False), (False, True)]


def test_addresses_of_nodes(api: Mesh) -> None:
    """Workers know which address the record of each node names, and none of a node without one."""
    api.add_node("api-2")
    assert api.compile().snapshot.nodes.keys() >= {"api-2"}
    api.remove_node("api-2")
    assert "api-2" not in api.compile().snapshot.nodes
