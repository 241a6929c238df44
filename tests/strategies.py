"""Hypothesis strategies for what the mesh knows: identities and valid resources of every kind."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from registry.model.administrator import Administrator, AdministratorSpec
from registry.model.authorization import (
    Action,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    From,
    Operation,
    Rule,
    Source,
    To,
    WorkloadSelector,
)
from registry.model.enrolment import (
    Enrolment,
    EnrolmentSpec,
    JoinToken,
    JoinTokenSpec,
    SealedKey,
    SealedKeySpec,
    TrustBundle,
    TrustBundleSpec,
)
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from registry.model.mesh import DefaultAuthorization, Mesh, MeshSpec
from registry.model.resource import ROOT_NAMESPACE, Metadata, Resource
from registry.model.service import PortProtocol, Service, ServicePort, ServiceSpec
from registry.model.status import Status, StatusSpec
from registry.model.workload import (
    Health,
    Node,
    NodeSpec,
    NodeStatus,
    NodeStatusSpec,
    Rejection,
    Workload,
    WorkloadSpec,
)

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ports = st.integers(1, 65535)
trust_domains = st.sampled_from(["nodemesh.local", "prod.example.com"])
# Anything UTF-8 can carry; a lone surrogate is no text.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
times = st.datetimes().map(lambda moment: moment.isoformat() + "Z")
label_keys = st.sampled_from(["app", "version", "tier", "app.kubernetes.io/name", "x_y", "A1"])
label_values = st.from_regex(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?)?", fullmatch=True)
labels = st.dictionaries(label_keys, label_values, max_size=3)
revisions = st.integers(0, 2**63 - 1)

workload_identities = st.builds(WorkloadIdentity, trust_domains, names, names)
node_identities = st.builds(NodeIdentity, trust_domains, names)
identities: st.SearchStrategy[Identity] = workload_identities | node_identities
principals = identities.map(lambda identity: identity.principal)


def metadata(
    *, name: st.SearchStrategy[str] = names, namespace: st.SearchStrategy[str] = names
) -> st.SearchStrategy[Metadata]:
    """Give metadata with the names given."""
    return st.builds(
        Metadata,
        name=name,
        namespace=namespace,
        labels=labels,
        annotations=st.dictionaries(label_keys, texts, max_size=2),
    )


def _resources(
    cls: type[Resource], spec: st.SearchStrategy[Any], *, meta: st.SearchStrategy[Metadata] | None = None
) -> st.SearchStrategy[Any]:
    return st.builds(
        cls,
        api_version=st.sampled_from(cls.API_VERSIONS),
        kind=st.just(cls.KIND),
        metadata=metadata() if meta is None else meta,
        spec=spec,
    )


def _tuples(
    elements: st.SearchStrategy[Any], *, least: int = 0, most: int = 3
) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(elements, min_size=least, max_size=most).map(tuple)


def patterns(exact: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Give Istio's patterns around a value: itself, the beginning, the end, or anything."""
    cuts = st.tuples(exact, st.floats(0, 1)).map(lambda pair: (pair[0], round(len(pair[0]) * pair[1])))
    return (
        exact
        | cuts.map(lambda cut: cut[0][: cut[1]] + "*")
        | cuts.map(lambda cut: "*" + cut[0][cut[1] :])
        | st.just("*")
    )


principal_patterns = patterns(principals)
namespace_patterns = patterns(names)


def policies(
    *,
    principals: st.SearchStrategy[str] = principal_patterns,
    namespaces: st.SearchStrategy[str] = namespace_patterns,
    port_numbers: st.SearchStrategy[int] = ports,
    meta: st.SearchStrategy[Metadata] | None = None,
    matched_labels: st.SearchStrategy[dict[str, str]] = labels,
) -> st.SearchStrategy[AuthorizationPolicy]:
    """Give valid policies of the patterns and ports given; with few of these, some will match."""
    principal_lists = _tuples(principals, most=2)
    namespace_lists = _tuples(namespaces, most=2)
    port_lists = _tuples(port_numbers.map(str), most=2)
    sources = st.builds(
        Source,
        principals=principal_lists,
        not_principals=principal_lists,
        namespaces=namespace_lists,
        not_namespaces=namespace_lists,
    ).filter(lambda source: source != Source())
    operations = st.builds(Operation, ports=port_lists, not_ports=port_lists).filter(
        lambda operation: operation != Operation()
    )
    rules = st.builds(
        Rule,
        from_=_tuples(st.builds(From, source=sources), most=2),
        to=_tuples(st.builds(To, operation=operations), most=2),
    )
    specs = st.builds(
        AuthorizationPolicySpec,
        selector=st.none() | st.builds(WorkloadSelector, match_labels=matched_labels),
        action=st.sampled_from(Action),
        rules=_tuples(rules, most=2),
        dry_run=st.booleans(),
    ).map(lambda spec: spec if spec.rules or spec.action is not Action.DENY else _deny_all(spec))
    return _resources(AuthorizationPolicy, specs, meta=meta)


def _deny_all(spec: AuthorizationPolicySpec) -> AuthorizationPolicySpec:
    # A DENY policy without rules is refused by the parser.
    return msgspec.structs.replace(spec, rules=(Rule(),))


_service_ports = st.lists(
    st.builds(
        ServicePort,
        port=ports,
        name=st.none() | names,
        target_port=st.none() | ports,
        protocol=st.sampled_from(PortProtocol),
    ),
    min_size=1,
    max_size=3,
    unique_by=(lambda port: port.port, lambda port: port.name or f":{port.port}"),
).map(tuple)

services: st.SearchStrategy[Service] = _resources(
    Service,
    st.builds(
        ServiceSpec,
        ports=_service_ports,
        selector=labels.filter(bool),
        identities=_tuples(
            workload_identities.map(str) | st.tuples(names, names).map(lambda pair: "/".join(pair))
        ),
    ),
)

meshes: st.SearchStrategy[Mesh] = _resources(
    Mesh,
    st.builds(
        MeshSpec,
        trust_domain=trust_domains,
        default_authorization=st.sampled_from(DefaultAuthorization),
        vip_ranges=st.sampled_from(
            [MeshSpec().vip_ranges, (), ("10.240.0.0/16",), ("fd00::/64", "240.0.0.0/24")]
        ),
    ),
    meta=metadata(name=st.just("mesh"), namespace=st.just(ROOT_NAMESPACE)),
)

workloads: st.SearchStrategy[Workload] = _resources(
    Workload,
    st.builds(
        WorkloadSpec,
        node=names,
        identity=workload_identities.map(str),
        ports=_tuples(ports),
        health=st.sampled_from(Health),
        weight=st.integers(0, 65535),
    ),
)

nodes: st.SearchStrategy[Node] = _resources(
    Node,
    st.builds(
        NodeSpec,
        address=st.ip_addresses().map(str),
        tunnel_port=ports,
        region=texts,
        zone=texts,
        version=texts,
        boot_id=texts,
    ),
    meta=metadata(namespace=st.just(ROOT_NAMESPACE)),
)

node_statuses: st.SearchStrategy[NodeStatus] = _resources(
    NodeStatus,
    st.builds(
        NodeStatusSpec,
        applied_revision=revisions,
        rejected=_tuples(
            st.builds(Rejection, key=texts, reason=texts, last_good_revision=st.none() | revisions)
        ),
        certificate_expires=times,
        workers=st.integers(0, 64),
    ),
)

enrolments: st.SearchStrategy[Enrolment] = _resources(
    Enrolment,
    st.builds(EnrolmentSpec, node=names, identities=_tuples(workload_identities.map(str)), enrolled_at=times),
)

join_tokens: st.SearchStrategy[JoinToken] = _resources(
    JoinToken,
    st.builds(
        JoinTokenSpec,
        secret_sha256=digests,
        node_pattern=texts,
        identities=_tuples(workload_identities.map(str)),
        uses_left=st.integers(0, 1000),
        expires_at=times,
    ),
)

trust_bundles: st.SearchStrategy[TrustBundle] = _resources(
    TrustBundle, st.builds(TrustBundleSpec, trust_domain=trust_domains, roots_pem=_tuples(texts))
)

sealed_keys: st.SearchStrategy[SealedKey] = _resources(
    SealedKey,
    st.builds(
        SealedKeySpec, algorithm=texts, salt=texts, nonce=texts, ciphertext=texts, certificate_pem=texts
    ),
)

administrators: st.SearchStrategy[Administrator] = _resources(
    Administrator, st.builds(AdministratorSpec, token_sha256=digests)
)

statuses: st.SearchStrategy[Status] = _resources(
    Status,
    st.builds(
        StatusSpec, revision=revisions, accepted=st.booleans(), reasons=_tuples(texts), vips=_tuples(texts)
    ),
)

by_kind: dict[type[Resource], st.SearchStrategy[Any]] = {
    Service: services,
    AuthorizationPolicy: policies(),
    Mesh: meshes,
    Workload: workloads,
    Node: nodes,
    NodeStatus: node_statuses,
    Enrolment: enrolments,
    JoinToken: join_tokens,
    TrustBundle: trust_bundles,
    SealedKey: sealed_keys,
    Administrator: administrators,
    Status: statuses,
}

resources: st.SearchStrategy[Resource] = st.one_of(*by_kind.values())
