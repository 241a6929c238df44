"""Short ways to write the snapshots and policies that these tests hand to workers."""

import msgspec

from node_proxy.snapshot import Endpoint, LocalWorkload, OwnerRule, ServicePortView, ServiceView, Snapshot
from registry.model.authorization import (
    Action,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    From,
    Operation,
    Rule,
    Source,
    TargetKind,
    TargetRef,
    To,
    WorkloadSelector,
)
from registry.model.backend_policy import BackendPolicy, BackendPolicySpec
from registry.model.gateway import ParentReference
from registry.model.http_route import HTTPRoute, HTTPRouteRule, HTTPRouteSpec
from registry.model.mesh import DefaultAuthorization
from registry.model.resource import Metadata
from registry.model.service import PortProtocol
from tests.integration.certificates import TRUST_DOMAIN, server_name, spiffe
from tests.integration.worker import Worker


def endpoint(node: str, address: str, tunnel_port: int, port: int, *, identity: str) -> Endpoint:
    """Give a healthy endpoint that the tunnel at `address` leads to."""
    return Endpoint(
        node=node,
        workload=f"default/{node}-{port}",
        address=address,
        port=port,
        tunnel_port=tunnel_port,
        identity=identity,
        server_name=server_name(identity),
        weight=100,
        healthy=True,
    )


def service(
    name: str, port: int, *endpoints: Endpoint, protocol: PortProtocol = PortProtocol.TCP
) -> ServiceView:
    """Give a service of one port."""
    view = ServicePortView(port=port, protocol=protocol, endpoints=endpoints)
    return ServiceView(name=name, vips=(), ports=(view,))


def local(
    account: str,
    *ports: int,
    namespace: str = "default",
    dial: str = "127.0.0.1",
    protocol: PortProtocol = PortProtocol.TCP,
) -> LocalWorkload:
    """Give a workload of this host, labelled ``app: <account>``."""
    identity = spiffe(account, namespace=namespace)
    return LocalWorkload(
        name=f"{namespace}/{account}",
        namespace=namespace,
        labels={"app": account},
        identity=identity,
        server_name=server_name(identity),
        ports=ports,
        dial=dial,
        protocols=dict.fromkeys(ports, protocol),
    )


def owned(account: str, owner: OwnerRule) -> LocalWorkload:
    """Give a workload of this host that says which processes speak for it."""
    return msgspec.structs.replace(local(account), owner=owner)


def snapshot(
    worker: Worker,
    *,
    revision: int = 1,
    services: tuple[ServiceView, ...] = (),
    workloads: tuple[LocalWorkload, ...] = (),
    policies: tuple[AuthorizationPolicy, ...] = (),
    default: DefaultAuthorization = DefaultAuthorization.ALLOW,
    closed: dict[str, str] | None = None,
    http_routes: tuple[HTTPRoute, ...] = (),
    backend_policies: tuple[BackendPolicy, ...] = (),
) -> Snapshot:
    """Give a snapshot for `worker`."""
    return Snapshot(
        revision=revision,
        node=worker.node,
        addresses=(worker.address,),
        trust_domain=TRUST_DOMAIN,
        default_authorization=default,
        services=services,
        local=workloads,
        policies=policies,
        closed_namespaces=closed or {},
        http_routes=tuple((route, revision) for route in http_routes),
        backend_policies=backend_policies,
    )


def policy(
    name: str,
    action: Action,
    *,
    principals: tuple[str, ...] = (),
    namespaces: tuple[str, ...] = (),
    ports: tuple[int, ...] = (),
    app: str | None = None,
) -> AuthorizationPolicy:
    """Give a policy of one rule; without conditions the rule matches everyone."""
    source = Source(principals=principals, namespaces=namespaces)
    operation = Operation(ports=tuple(str(port) for port in ports))
    rule = Rule(
        from_=(From(source=source),) if principals or namespaces else (),
        to=(To(operation=operation),) if ports else (),
    )
    selector = None if app is None else WorkloadSelector(match_labels={"app": app})
    return AuthorizationPolicy(
        api_version="security.istio.io/v1",
        kind="AuthorizationPolicy",
        metadata=Metadata(name=name),
        spec=AuthorizationPolicySpec(selector=selector, action=action, rules=(rule,)),
    )


def http_route(*rules: HTTPRouteRule, parent: str = "api") -> HTTPRoute:
    """Give a route that is attached to a service and has its name."""
    return HTTPRoute(
        api_version="gateway.networking.k8s.io/v1",
        kind="HTTPRoute",
        metadata=Metadata(name=parent),
        spec=HTTPRouteSpec(parent_refs=(ParentReference(name=parent),), rules=rules),
    )


def backend_policy(service: str = "api", **spec: object) -> BackendPolicy:
    """Give a policy of a service."""
    target = TargetRef(kind=TargetKind.SERVICE, name=service)
    return BackendPolicy(
        api_version="nodemesh/v1",
        kind="BackendPolicy",
        metadata=Metadata(name=service),
        spec=msgspec.structs.replace(BackendPolicySpec(target_refs=(target,)), **spec),
    )
