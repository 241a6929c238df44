"""The Snapshot turned into what the byte path looks up: one immutable value, replaced as a whole. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from node_proxy.dataplane.external_table import ExternalTable
from node_proxy.owners import OwnerTable
from node_proxy.snapshot import Endpoint, LocalWorkload, Snapshot
from registry.model.backend_policy import BackendPolicySpec
from registry.model.resource import ROOT_NAMESPACE
from registry.model.service import PortProtocol
from registry.rules import MeshPolicies, WorkloadPolicies
from registry.rules.routing import Backend, RouteBook, RouteTable

# Snapshot.closed_namespaces holds this when a mesh-wide policy never parsed.
EVERY_NAMESPACE = "*"
# What holds for a service that no BackendPolicy is attached to.
NO_POLICY = BackendPolicySpec(target_refs=())


@dataclass(frozen=True, slots=True)
class Route:
    """A service port, the endpoints behind it, and how they are to be called."""

    service: str
    port: int
    endpoints: tuple[Endpoint, ...]
    protocol: PortProtocol = PortProtocol.TCP
    # One value for each service as long as the policy stays the same: what is kept for it may go by identity.
    policy: BackendPolicySpec = field(default=NO_POLICY, compare=False)


@dataclass(frozen=True, slots=True)
class LocalPort:
    """A registered workload behind one of its ports on this host, with the policies that guard it."""

    workload: LocalWorkload
    policies: WorkloadPolicies


class Tables:
    """Look-ups over one Snapshot; of the `former` tables what is the same is taken over."""

    def __init__(self, snapshot: Snapshot, former: "Tables | None" = None) -> None:
        self.revision = snapshot.revision
        self.owners = OwnerTable(snapshot.local)
        self.region, self.zone = snapshot.region, snapshot.zone
        self.enforcement_grace = snapshot.enforcement_grace
        self.addresses = frozenset(str(ip_address(address)) for address in snapshot.addresses)
        self._nodes = {node: str(ip_address(address)) for node, address in snapshot.nodes.items()}
        self._claims = Counter(self._nodes.values())
        self._by_name: dict[tuple[str, int], Route] = {}
        self._by_vip: dict[tuple[str, int], Route] = {}
        self._by_endpoint: dict[tuple[str, int], Route] | None = None
        policies = {name: policy.spec for policy in snapshot.backend_policies for name in policy.targets}
        # By the services that they are attached to.
        self.backend_policies: Mapping[str, BackendPolicySpec] = policies
        for service in snapshot.services:
            policy = policies.get(service.name, NO_POLICY)
            for view in service.ports:
                route = Route(service.name, view.port, view.endpoints, view.protocol, policy)
                self._by_name[service.name, view.port] = route
                for vip in service.vips:
                    self._by_vip[str(ip_address(vip)), view.port] = route
        before = former._routes if former else None  # noqa: SLF001 - of our own kind
        self._routes: RouteBook | None = _book(snapshot, before)
        self.externals = ExternalTable(snapshot.externals)
        self._vip_ranges = tuple(ip_network(text) for text in snapshot.vip_ranges)
        self.policies: MeshPolicies = MeshPolicies(
            snapshot.policies,
            trust_domain=snapshot.trust_domain,
            peers=snapshot.peer_authentications,
            mode=snapshot.mtls_mode,
            default=snapshot.default_authorization,
            root_namespace=ROOT_NAMESPACE,
            former=former.policies if former else None,
        )
        self._local = {
            port: LocalPort(workload, policies)
            for workload, policies in ((w, self._policies_of(snapshot, w)) for w in snapshot.local)
            for port in workload.ports
        }

    def by_name(self, service: str, port: int) -> Route | None:
        """Find a service port by ``namespace/name``."""
        return self._by_name.get((service, port))

    def by_vip(self, address: str, port: int) -> Route | None:
        """Find a service port by a virtual IP in canonical text."""
        return self._by_vip.get((address, port))

    def by_endpoint(self, address: str, port: int) -> Route | None:
        """Find a service port by the address of one endpoint, in canonical text; it leads there alone."""
        if self._by_endpoint is None:
            # Few hosts ever ask, and it is as large as the mesh.
            self._by_endpoint = {}
            for route in self._by_name.values():
                for each in route.endpoints:
                    alone = replace(route, endpoints=(each,))
                    self._by_endpoint.setdefault((str(ip_address(each.address)), each.port), alone)
        return self._by_endpoint.get((address, port))

    def requests(self, route: Route, caller_namespace: str | None) -> RouteTable | None:
        """Give the rules for requests to a service port; None where they simply go there."""
        if self._routes is None:
            return None
        return self._routes.table(route.service, route.port, caller_namespace)

    def tcp_backends(self, route: Route, caller_namespace: str | None) -> Sequence[Backend]:
        """Give where connections to a service port go; empty where that is the port itself."""
        return () if self._routes is None else self._routes.tcp(route.service, route.port, caller_namespace)

    def is_virtual(self, address: str) -> bool:
        """Whether an address, in canonical text, is of the mesh's making: nothing is ever dialled there."""
        ip = ip_address(address)
        return any(ip in network for network in self._vip_ranges)

    def local(self, port: int) -> LocalPort | None:
        """Find the registered workload of this host that listens on `port`."""
        return self._local.get(port)

    def is_address_of(self, node: str, address: str) -> bool:
        """Whether a node may say that a caller of its has `address`, in canonical text: its record's.

        The record is that node's own word, so an address that another node claims too, or that is this
        host's, is nobody's to speak from.
        """
        return (
            self._nodes.get(node) == address and self._claims[address] == 1 and address not in self.addresses
        )

    def _policies_of(self, snapshot: Snapshot, workload: LocalWorkload) -> WorkloadPolicies:
        closed = snapshot.closed_namespaces
        return self.policies.of(
            namespace=workload.namespace,
            labels=workload.labels,
            services=workload.services,
            closed_by=closed.get(EVERY_NAMESPACE) or closed.get(workload.namespace),
        )


def _book(snapshot: Snapshot, former: RouteBook | None) -> RouteBook | None:
    if not (snapshot.http_routes or snapshot.grpc_routes or snapshot.tcp_routes):
        return None
    return RouteBook.renew(
        former,
        http_routes=snapshot.http_routes,
        grpc_routes=snapshot.grpc_routes,
        tcp_routes=snapshot.tcp_routes,
        services={each.name: {view.port: view.protocol for view in each.ports} for each in snapshot.services},
    )
