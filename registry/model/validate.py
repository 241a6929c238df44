"""What a resource of the right shape may still get wrong by itself.

Pure. Each check yields problems, the gravest first; none of them looks at other resources.
"""

import ipaddress
from collections.abc import Iterator
from typing import Final

from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_checks import backend_policy_problems
from registry.model.backend_policy import BackendPolicy
from registry.model.enrolment import Enrolment
from registry.model.external_checks import external_problems
from registry.model.external_service import ExternalService
from registry.model.fields import clip, show
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.identity import InvalidIdentity, WorkloadIdentity, parse_identity
from registry.model.mesh import Mesh
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.model.policy_checks import peer_problems, policy_problems
from registry.model.problem import Problem, label_key_problems, label_problems, repeated_problems
from registry.model.resource import DEFAULT_TRUST_DOMAIN, ROOT_NAMESPACE, Resource
from registry.model.route_checks import grpc_route_problems, http_route_problems, tcp_route_problems
from registry.model.service import Service
from registry.model.tcp_route import TCPRoute
from registry.model.workload import Node, Workload

# Fewer addresses than this run out at the first dozens of services.
_MIN_VIP_ADDRESSES: Final = 256
# Where a virtual IP would swallow traffic that is not the mesh's: loopback, link-local, multicast.
_NO_VIPS: Final = tuple(
    map(
        ipaddress.ip_network,
        ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/10", "ff00::/8"),
    )
)


def find_problems(resource: Resource) -> Iterator[Problem]:
    """Give everything that is wrong with `resource` taken alone."""
    yield from label_problems(resource.metadata.labels, "metadata.labels")
    yield from label_key_problems(resource.metadata.annotations, "metadata.annotations")
    match resource:
        case Service():
            yield from _service(resource)
        case ExternalService():
            yield from external_problems(resource)
        case AuthorizationPolicy():
            yield from policy_problems(resource)
        case PeerAuthentication():
            yield from peer_problems(resource)
        case HTTPRoute():
            yield from http_route_problems(resource)
        case GRPCRoute():
            yield from grpc_route_problems(resource)
        case TCPRoute():
            yield from tcp_route_problems(resource)
        case BackendPolicy():
            yield from backend_policy_problems(resource)
        case Mesh():
            yield from _mesh(resource)
        case Workload():
            yield from _workload_identity(resource.spec.identity, "spec.identity")
        case Node():
            yield from _address(resource.spec.address, "spec.address")
        case Enrolment():
            for i, identity in enumerate(resource.spec.identities):
                yield from _workload_identity(identity, f"spec.identities[{i}]")
        case _:
            pass


def _service(service: Service) -> Iterator[Problem]:
    spec = service.spec
    if not spec.ports:
        yield Problem("spec.ports", "is empty", "write at least one, as in [{port: 80}]")
    yield from repeated_problems((port.port for port in spec.ports), "spec.ports", "port")
    yield from repeated_problems((port.name for port in spec.ports), "spec.ports", "name")
    if not spec.selector:
        yield Problem(
            "spec.selector",
            "is empty and would select every workload of the namespace",
            "write labels that only this service's workloads carry",
        )
    yield from label_problems(spec.selector, "spec.selector")
    for i, text in enumerate(spec.identities):
        path = f"spec.identities[{i}]"
        if text.startswith("spiffe://"):
            yield from _workload_identity(text, path)
            continue
        try:
            # The trust domain is the mesh's and plays no part in the syntax of the short form.
            WorkloadIdentity.from_short(text, DEFAULT_TRUST_DOMAIN)
        except InvalidIdentity as error:
            yield Problem(path, clip(str(error)))


def _workload_identity(text: str, path: str) -> Iterator[Problem]:
    try:
        identity = parse_identity(text)
    except InvalidIdentity as error:
        yield Problem(path, clip(str(error)))
    else:
        if not isinstance(identity, WorkloadIdentity):
            yield Problem(
                path,
                f"{show(text)} is a node's identity",
                f"write a workload's: spiffe://{identity.trust_domain}/ns/<namespace>/sa/<account>",
            )


def _address(text: str, path: str) -> Iterator[Problem]:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        yield Problem(path, f"{show(text)} is not an IP address")


def _mesh(mesh: Mesh) -> Iterator[Problem]:
    if mesh.metadata.name != "mesh":
        yield Problem(
            "metadata.name", f"{show(mesh.metadata.name)} names no mesh: there is one", "write mesh"
        )
    if mesh.metadata.namespace != ROOT_NAMESPACE:
        yield Problem(
            "metadata.namespace",
            f"the mesh is not in the namespace {show(mesh.metadata.namespace)}",
            f"write {ROOT_NAMESPACE}",
        )
    if mesh.spec.mtls_mode is MtlsMode.UNSET:
        yield Problem("spec.mtlsMode", "is unset, and nothing is wider", "write STRICT or PERMISSIVE")
    families: set[int] = set()
    for i, text in enumerate(mesh.spec.vip_ranges):
        path = f"spec.vipRanges[{i}]"
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            yield Problem(
                path, clip(f"is not a network: {error}"), "write one in CIDR form, as in 240.240.0.0/16"
            )
            continue
        if network.version in families:
            yield Problem(
                path, f"is a second IPv{network.version} network", "write at most one of each family"
            )
        families.add(network.version)
        if network.num_addresses < _MIN_VIP_ADDRESSES:
            yield Problem(
                path,
                f"holds only {network.num_addresses} addresses",
                f"write a network of at least {_MIN_VIP_ADDRESSES} addresses",
            )
        for other in _NO_VIPS:
            if network.version == other.version and network.overlaps(other):
                yield Problem(path, f"overlaps {other}", "write a private network that nothing else uses")
