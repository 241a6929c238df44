"""Hypothesis strategies for what the mesh knows: identities and valid resources of every kind."""

from datetime import datetime
from typing import Any

import msgspec
from hypothesis import strategies as st

from registry.model.administrator import Administrator, AdministratorSpec, Role
from registry.model.authorization import (
    Action,
    Attribute,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    Condition,
    From,
    Operation,
    Rule,
    Source,
    TargetKind,
    TargetRef,
    To,
    WorkloadSelector,
)
from registry.model.backend_policy import BackendPolicy
from registry.model.decision import DecisionRecord, NodeDecisions, NodeDecisionsSpec, Outcome
from registry.model.enrolment import (
    Enrolment,
    EnrolmentSpec,
    FederatedDomain,
    JoinToken,
    JoinTokenSpec,
    Revocation,
    SealedKey,
    SealedKeySpec,
    TrustBundle,
    TrustBundleSpec,
)
from registry.model.external_service import (
    ExternalEndpoint,
    ExternalPort,
    ExternalService,
    ExternalServiceSpec,
    ExternalTls,
    ExternalTlsMode,
    Resolution,
)
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from registry.model.mesh import DefaultAuthorization, Mesh, MeshSpec
from registry.model.peer_authentication import (
    MtlsMode,
    MutualTls,
    PeerAuthentication,
    PeerAuthenticationSpec,
)
from registry.model.quota import NodeQuotas, NodeQuotasSpec
from registry.model.resource import ROOT_NAMESPACE, Metadata, Resource
from registry.model.rotation import Phase, Rotation, RotationSpec
from registry.model.service import PortProtocol, Service, ServicePort, ServiceSpec
from registry.model.status import Status, StatusSpec
from registry.model.tcp_route import TCPRoute
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
from tests.traffic_strategies import (
    backend_policy_specs,
    grpc_route_specs,
    http_route_specs,
    tcp_route_specs,
)

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ports = st.integers(1, 65535)
trust_domains = st.sampled_from(["nodemesh.local", "prod.example.com"])
# Anything UTF-8 can carry; a lone surrogate is no text.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
times = st.datetimes().map(lambda moment: moment.isoformat() + "Z")
moments = st.datetimes(min_value=datetime(2000, 1, 1)).map(
    lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ")
)
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


principal_patterns = patterns(workload_identities.map(lambda identity: identity.principal))
namespace_patterns = patterns(names)
addresses = st.ip_addresses().map(str)
networks = addresses | st.ip_addresses(v=4).map(lambda address: f"{address}/32")
methods = st.sampled_from(["GET", "POST", "DELETE"])
hosts = st.sampled_from(["api.example.com", "api.example.com:8080", "web", "10.0.0.1"])
paths = st.sampled_from(["/", "/admin", "/admin/users", "/static/a.css", "/café"])
path_patterns = patterns(paths) | st.sampled_from(["/{*}/users", "/static/{**}", "/{*}"])
header_names = st.sampled_from(["x-team", "authorization"])
header_values = st.sampled_from(["red", "blue", "Bearer x"])


def policies(
    *,
    principals: st.SearchStrategy[str] = principal_patterns,
    namespaces: st.SearchStrategy[str] = namespace_patterns,
    accounts: st.SearchStrategy[str] = names,
    networks: st.SearchStrategy[str] = networks,
    port_numbers: st.SearchStrategy[int] = ports,
    meta: st.SearchStrategy[Metadata] | None = None,
    matched_labels: st.SearchStrategy[dict[str, str]] = labels,
    services: st.SearchStrategy[str] = names,
) -> st.SearchStrategy[AuthorizationPolicy]:
    """Give valid policies of the patterns and ports given; with few of these, some will match."""
    rules = st.builds(
        Rule,
        from_=_tuples(st.builds(From, source=_sources(principals, namespaces, accounts, networks)), most=2),
        to=_tuples(st.builds(To, operation=_operations(port_numbers)), most=2),
        when=_tuples(_conditions(principals, namespaces, accounts, networks, port_numbers), most=2),
    )
    specs = st.builds(
        AuthorizationPolicySpec,
        selector=st.none() | st.builds(WorkloadSelector, match_labels=matched_labels),
        target_refs=_tuples(st.builds(TargetRef, kind=st.just(TargetKind.SERVICE), name=services), most=2),
        action=st.sampled_from(Action),
        rules=_tuples(rules, most=2),
        dry_run=st.booleans(),
    ).map(_consistent)
    return _resources(AuthorizationPolicy, specs, meta=meta)


def _sources(
    principals: st.SearchStrategy[str],
    namespaces: st.SearchStrategy[str],
    accounts: st.SearchStrategy[str],
    networks: st.SearchStrategy[str],
) -> st.SearchStrategy[Source]:
    principal_lists = _tuples(principals, most=2)
    namespace_lists = _tuples(namespaces, most=2)
    account_lists = _tuples(accounts, most=2)
    network_lists = _tuples(networks, most=2)
    nobody = st.just(())
    addressed = {
        "ip_blocks": network_lists,
        "not_ip_blocks": nobody | network_lists,
        "remote_ip_blocks": nobody | network_lists,
        "not_remote_ip_blocks": nobody | network_lists,
    }
    named = st.builds(
        Source,
        principals=principal_lists,
        not_principals=principal_lists,
        namespaces=namespace_lists,
        not_namespaces=namespace_lists,
    )
    accounted = st.builds(Source, service_accounts=account_lists, not_service_accounts=account_lists)
    both = st.builds(
        Source, principals=principal_lists, ip_blocks=network_lists, not_remote_ip_blocks=network_lists
    )
    return (named | accounted | st.builds(Source, **addressed) | both).filter(
        lambda source: source != Source()
    )


def _operations(port_numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Operation]:
    port_lists = _tuples(port_numbers.map(str), most=2)
    at_ports = st.builds(Operation, ports=port_lists, not_ports=port_lists)
    of_requests = st.builds(
        Operation,
        ports=port_lists,
        hosts=_tuples(patterns(hosts), most=1),
        not_hosts=_tuples(patterns(hosts), most=1),
        methods=_tuples(methods, most=1),
        not_methods=_tuples(methods, most=1),
        paths=_tuples(path_patterns, most=2),
        not_paths=_tuples(path_patterns, most=1),
    )
    return (at_ports | of_requests).filter(lambda operation: operation != Operation())


def _conditions(
    principals: st.SearchStrategy[str],
    namespaces: st.SearchStrategy[str],
    accounts: st.SearchStrategy[str],
    networks: st.SearchStrategy[str],
    port_numbers: st.SearchStrategy[int],
) -> st.SearchStrategy[Condition]:
    values = {
        Attribute.SOURCE_IP: networks,
        Attribute.REMOTE_IP: networks,
        Attribute.SOURCE_NAMESPACE: namespaces,
        Attribute.SOURCE_PRINCIPAL: principals,
        Attribute.SOURCE_SERVICE_ACCOUNT: accounts,
        Attribute.DESTINATION_IP: networks,
        Attribute.DESTINATION_PORT: port_numbers.map(str),
        Attribute.CONNECTION_SNI: patterns(hosts),
    }
    keyed = [
        st.builds(
            Condition,
            key=st.just(attribute.value),
            values=_tuples(value, most=2),
            not_values=_tuples(value, most=1),
        )
        for attribute, value in values.items()
    ]
    headers = st.builds(
        Condition,
        key=header_names.map(lambda name: f"request.headers[{name}]"),
        values=_tuples(patterns(header_values), most=2),
        not_values=_tuples(patterns(header_values), most=1),
    )
    return st.one_of(headers, *keyed).filter(lambda condition: bool(condition.values or condition.not_values))


def _consistent(spec: AuthorizationPolicySpec) -> AuthorizationPolicySpec:
    # The parser refuses a selector beside targets, and a DENY policy without rules.
    if spec.selector is not None:
        spec = msgspec.structs.replace(spec, target_refs=())
    if spec.action is Action.DENY and not spec.rules:
        spec = msgspec.structs.replace(spec, rules=(Rule(),))
    return spec


def peer_authentications(
    *,
    meta: st.SearchStrategy[Metadata] | None = None,
    matched_labels: st.SearchStrategy[dict[str, str]] = labels,
    port_numbers: st.SearchStrategy[int] = ports,
) -> st.SearchStrategy[PeerAuthentication]:
    """Give valid PeerAuthentications of the labels and ports given."""
    modes = st.builds(MutualTls, mode=st.sampled_from(MtlsMode))
    said = st.builds(MutualTls, mode=st.sampled_from([MtlsMode.STRICT, MtlsMode.PERMISSIVE]))
    selecting = st.builds(
        PeerAuthenticationSpec,
        selector=st.builds(WorkloadSelector, match_labels=matched_labels.filter(bool)),
        mtls=modes,
        port_level_mtls=st.dictionaries(port_numbers.map(str), modes, min_size=1, max_size=2),
    )
    return _resources(PeerAuthentication, selecting, meta=meta) | _resources(
        PeerAuthentication, st.builds(PeerAuthenticationSpec, mtls=said), meta=meta
    )


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

external_hosts = st.sampled_from(["api.example.com", "db.example.org", "a-b.c.example.net"])
_external_ports = st.lists(
    st.builds(
        ExternalPort,
        number=ports,
        name=st.none() | names,
        protocol=st.sampled_from([each for each in PortProtocol if each is not PortProtocol.TLS]),
        target_port=st.none() | ports,
    ),
    min_size=1,
    max_size=3,
    unique_by=(lambda port: port.number, lambda port: port.name or f":{port.number}"),
).map(tuple)
_external_addresses = st.sampled_from(["192.0.2.7", "10.1.2.3", "2001:db8::7"])
_external_tls = st.just(ExternalTls()) | st.builds(
    ExternalTls,
    mode=st.just(ExternalTlsMode.SIMPLE),
    sni=st.none() | external_hosts,
    ca_certificates=st.none() | st.just("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
)
_external = {
    "hosts": st.lists(external_hosts, min_size=1, max_size=2, unique=True).map(tuple),
    "ports": _external_ports,
    "tls": _external_tls,
    "allowed_principals": st.none() | _tuples(principal_patterns),
}

external_services: st.SearchStrategy[ExternalService] = _resources(
    ExternalService,
    st.builds(ExternalServiceSpec, **_external)
    | st.builds(
        ExternalServiceSpec,
        endpoints=_tuples(st.builds(ExternalEndpoint, address=_external_addresses), least=1),
        resolution=st.just(Resolution.STATIC),
        **_external,
    ),
)

meshes: st.SearchStrategy[Mesh] = _resources(
    Mesh,
    st.builds(
        MeshSpec,
        trust_domain=trust_domains,
        default_authorization=st.sampled_from(DefaultAuthorization),
        mtls_mode=st.sampled_from([MtlsMode.STRICT, MtlsMode.PERMISSIVE]),
        enforcement_grace=st.integers(0, 300),
        vip_hold_down=st.integers(0, 604800),
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
        trusted_roots=_tuples(digests),
        issuers=_tuples(digests),
        workers=st.integers(0, 64),
        faults=_tuples(texts),
    ),
)

node_quotas: st.SearchStrategy[NodeQuotas] = _resources(
    NodeQuotas,
    st.builds(
        NodeQuotasSpec,
        # As nodes write them: to the thousandth.
        demands=st.dictionaries(texts, st.integers(0, 10**9).map(lambda number: number / 1000), max_size=4),
    ),
)

node_decisions: st.SearchStrategy[NodeDecisions] = _resources(
    NodeDecisions,
    st.builds(
        NodeDecisionsSpec,
        decisions=_tuples(
            st.builds(
                DecisionRecord,
                outcome=st.sampled_from(Outcome),
                reason=texts,
                source=texts,
                port=ports,
                count=st.integers(1, 2**63 - 1),
                first_seen=times,
                last_seen=times,
                policy=texts,
                source_ip=texts,
                ids=_tuples(texts, most=8),
            )
        ),
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
    TrustBundle,
    st.builds(
        TrustBundleSpec,
        trust_domain=trust_domains,
        roots_pem=_tuples(texts),
        issuer=st.just("") | digests,
        revocations=_tuples(
            st.builds(
                Revocation,
                kind=st.sampled_from(("node", "identity", "serial")),
                value=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
                revoked_at=moments,
                reason=texts,
                expires_at=st.just("") | moments,
            )
        ),
        federated=_tuples(st.builds(FederatedDomain, trust_domain=trust_domains, roots_pem=_tuples(texts))),
        generation=st.integers(0, 2**40),
    ),
)

rotations: st.SearchStrategy[Rotation] = _resources(
    Rotation,
    st.builds(
        RotationSpec,
        phase=st.sampled_from(Phase),
        started_at=moments,
        since=moments,
        root=digests,
        issuer=digests,
        leaf_seconds=st.integers(1, 10**7),
        outgoing=_tuples(digests),
    ),
)

sealed_keys: st.SearchStrategy[SealedKey] = _resources(
    SealedKey,
    st.builds(
        SealedKeySpec,
        algorithm=texts,
        salt=texts,
        nonce=texts,
        ciphertext=texts,
        certificate_pem=texts,
        chain_pem=_tuples(texts),
        cross_pem=_tuples(texts),
    ),
)

administrators: st.SearchStrategy[Administrator] = _resources(
    Administrator,
    st.builds(AdministratorSpec, token_sha256=digests, role=st.sampled_from(Role), created_at=texts),
)

statuses: st.SearchStrategy[Status] = _resources(
    Status,
    st.builds(
        StatusSpec,
        revision=revisions,
        accepted=st.booleans(),
        reasons=_tuples(texts),
        vips=_tuples(texts),
        released_at=st.none() | moments,
    ),
)

http_routes: st.SearchStrategy[HTTPRoute] = _resources(HTTPRoute, http_route_specs)
grpc_routes: st.SearchStrategy[GRPCRoute] = _resources(GRPCRoute, grpc_route_specs)
tcp_routes: st.SearchStrategy[TCPRoute] = _resources(TCPRoute, tcp_route_specs)
backend_policies: st.SearchStrategy[BackendPolicy] = _resources(BackendPolicy, backend_policy_specs)

by_kind: dict[type[Resource], st.SearchStrategy[Any]] = {
    Service: services,
    ExternalService: external_services,
    AuthorizationPolicy: policies(),
    PeerAuthentication: peer_authentications(),
    HTTPRoute: http_routes,
    GRPCRoute: grpc_routes,
    TCPRoute: tcp_routes,
    BackendPolicy: backend_policies,
    Mesh: meshes,
    Workload: workloads,
    Node: nodes,
    NodeStatus: node_statuses,
    NodeDecisions: node_decisions,
    NodeQuotas: node_quotas,
    Enrolment: enrolments,
    JoinToken: join_tokens,
    TrustBundle: trust_bundles,
    SealedKey: sealed_keys,
    Rotation: rotations,
    Administrator: administrators,
    Status: statuses,
}

resources: st.SearchStrategy[Resource] = st.one_of(*by_kind.values())
