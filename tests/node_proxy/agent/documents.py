"""Short ways to write what stands in the store and in the operator's files."""

import random
from collections.abc import Mapping, Sequence

import msgspec

from node_proxy.config import NodeConfig, ProxyConfig, WorkloadConfig
from registry.model.authorization import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    Rule,
    WorkloadSelector,
)
from registry.model.mesh import DefaultAuthorization, Mesh, MeshSpec
from registry.model.parse import render
from registry.model.peer_authentication import (
    MtlsMode,
    MutualTls,
    PeerAuthentication,
    PeerAuthenticationSpec,
)
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata, Resource
from registry.model.service import Service, ServicePort, ServiceSpec
from registry.model.status import Status, StatusSpec
from registry.model.workload import Health, Node, NodeSpec, Workload, WorkloadSpec
from registry.store.base import Changed, KeyValue, Listing, Relisted, Removed

TRUST_DOMAIN = "nodemesh.local"
BAD = b'{"kind": "nonsense"}'


def seeded(seed: int = 1) -> random.Random:
    """Give jitter that is the same in every run."""
    return random.Random(seed)  # noqa: S311 (nothing secret comes of it)


def spiffe(account: str, namespace: str = "default") -> str:
    """Give a workload's SPIFFE ID."""
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}"


def changed(key: str, value: Resource | bytes, revision: int, *, created: int | None = None) -> Changed:
    """Give the event of a write."""
    raw = value if isinstance(value, bytes) else render(value)
    return Changed(KeyValue(key, raw, revision if created is None else created, revision))


def removed(key: str, revision: int) -> Removed:
    """Give the event of a deletion."""
    return Removed(key, revision)


def relisted(revision: int, *events: Changed) -> Relisted:
    """Give the whole state as it stands."""
    return Relisted(Listing(tuple(event.item for event in events), revision))


def service(
    name: str = "api", *, port: int = 80, target: int = 8080, identities: Sequence[str] = ()
) -> Service:
    """Give a service that selects ``app: <name>``."""
    return Service(
        api_version=NODEMESH,
        kind="Service",
        metadata=Metadata(name=name),
        spec=ServiceSpec(
            ports=(ServicePort(port=port, target_port=target),),
            selector={"app": name},
            identities=tuple(identities),
        ),
    )


def policy(
    name: str = "p",
    namespace: str = "default",
    *,
    rules: Sequence[Mapping[str, object]] = (),
    app: str | None = None,
) -> AuthorizationPolicy:
    """Give a policy that allows what `rules` say; `app` None means no selector."""
    return AuthorizationPolicy(
        api_version="security.istio.io/v1",
        kind="AuthorizationPolicy",
        metadata=Metadata(name=name, namespace=namespace),
        spec=AuthorizationPolicySpec(
            selector=None if app is None else WorkloadSelector(match_labels={"app": app}),
            rules=tuple(msgspec.convert(rule, Rule) for rule in rules),
        ),
    )


def peers(name: str = "p") -> PeerAuthentication:
    """Give a PeerAuthentication that requires an identity."""
    return PeerAuthentication(
        api_version="security.istio.io/v1",
        kind="PeerAuthentication",
        metadata=Metadata(name=name),
        spec=PeerAuthenticationSpec(mtls=MutualTls(mode=MtlsMode.STRICT)),
    )


def mesh(
    default: DefaultAuthorization = DefaultAuthorization.ALLOW,
    trust_domain: str = TRUST_DOMAIN,
    mtls_mode: MtlsMode = MtlsMode.STRICT,
) -> Mesh:
    """Give the mesh's settings."""
    return Mesh(
        api_version=NODEMESH,
        kind="Mesh",
        metadata=Metadata(name="mesh", namespace=ROOT_NAMESPACE),
        spec=MeshSpec(default_authorization=default, trust_domain=trust_domain, mtls_mode=mtls_mode),
    )


def node(name: str, address: str = "10.77.0.2", tunnel_port: int = 15008) -> Node:
    """Give a node's record."""
    return Node(
        api_version=NODEMESH,
        kind="Node",
        metadata=Metadata(name=name, namespace=ROOT_NAMESPACE),
        spec=NodeSpec(address=address, tunnel_port=tunnel_port),
    )


def workload(
    name: str = "api",
    *,
    on: str,
    app: str = "api",
    identity: str | None = None,
    ports: tuple[int, ...] = (8080,),
    health: Health = Health.HEALTHY,
) -> Workload:
    """Give a workload that node `on` has registered."""
    return Workload(
        api_version=NODEMESH,
        kind="Workload",
        metadata=Metadata(name=name, labels={"app": app}),
        spec=WorkloadSpec(node=on, identity=identity or spiffe(app), ports=ports, health=health),
    )


def vips(name: str, *addresses: str) -> Status:
    """Give the controller's word on a service."""
    return Status(
        api_version=NODEMESH,
        kind="Status",
        metadata=Metadata(name=name),
        spec=StatusSpec(revision=1, accepted=True, vips=addresses),
    )


def node_with(name: str, revision: int, app: str = "api") -> list[Changed]:
    """Give the writes of a node that runs one workload of `app`."""
    return [
        changed(f"nodes/{name}/record", node(name), revision),
        changed(f"nodes/{name}/workloads/default/{app}", workload(app, on=name, app=app), revision),
    ]


def node_config(*workloads: WorkloadConfig, state_dir: str = "/nonexistent") -> NodeConfig:
    """Give the configuration of node web-1."""
    proxy = ProxyConfig(
        node="web-1", address="10.77.0.1", registry="https://127.0.0.1:15010", state_dir=state_dir, workers=2
    )
    return NodeConfig(proxy=proxy, workloads=workloads)
