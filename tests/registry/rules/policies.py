"""Policies in few words, read by the real parser, and strategies for more of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import NodeIdentity, WorkloadIdentity
from registry.model.mesh import DefaultAuthorization
from registry.model.parse import from_builtins
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.model.resource import Metadata
from registry.rules import AuthRequest, HttpRequest, WorkloadPolicies, compile_policies
from tests import strategies

TRUST_DOMAIN = "nodemesh.local"
WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
API = WorkloadIdentity(TRUST_DOMAIN, "default", "api")
BATCH = WorkloadIdentity(TRUST_DOMAIN, "batch", "web")
FOREIGN = WorkloadIdentity("other.example", "default", "web")
NODE = NodeIdentity(TRUST_DOMAIN, "n1")
EVERYONE = (WEB, API, BATCH, FOREIGN, NODE, None)


def policy(
    name: str = "p",
    *rules: Mapping[str, Any],
    action: str = "ALLOW",
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    dry_run: bool = False,
    targets: Sequence[str] = (),
) -> AuthorizationPolicy:
    """Give a policy of `rules`; `labels` None means no selector, `targets` are Services."""
    spec: dict[str, Any] = {"action": action, "rules": list(rules), "dryRun": dry_run}
    if labels is not None:
        spec["selector"] = {"matchLabels": dict(labels)}
    if targets:
        spec["targetRefs"] = [{"kind": "Service", "name": name} for name in targets]
    resource = from_builtins(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        },
        where="test",
    )
    assert isinstance(resource, AuthorizationPolicy)
    return resource


def callers(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Give a rule's `from`."""
    return {"from": [{"source": source} for source in sources]}


def targets(*operations: Mapping[str, Any]) -> dict[str, Any]:
    """Give a rule's `to`."""
    return {"to": [{"operation": operation} for operation in operations]}


def compiled(
    policies: Iterable[AuthorizationPolicy],
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    default: DefaultAuthorization = DefaultAuthorization.ALLOW,
    closed_by: str | None = None,
    services: Iterable[str] = (),
    peers: Iterable[PeerAuthentication] = (),
    mode: MtlsMode = MtlsMode.PERMISSIVE,
) -> WorkloadPolicies:
    """Compile for a workload of the namespace `default`, labelled app=api, that lets in everybody."""
    return compile_policies(
        policies,
        trust_domain=TRUST_DOMAIN,
        namespace=namespace,
        labels={"app": "api"} if labels is None else labels,
        default=default,
        services=frozenset(services),
        peers=peers,
        mode=mode,
        closed_by=closed_by,
    )


# Policies, callers and ports so few that they often meet.
few_policies = st.lists(
    strategies.policies(
        principals=st.sampled_from(
            [WEB.principal, API.principal, FOREIGN.principal, "*", "nodemesh.local/ns/*", "*/sa/web"]
        ),
        namespaces=st.sampled_from(["default", "batch", "*", "b*", "*t"]),
        accounts=st.sampled_from(["web", "default/api", "batch/web"]),
        networks=st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "fd00::/8"]),
        port_numbers=st.sampled_from([80, 443]),
        meta=st.builds(
            Metadata, name=st.sampled_from("abcd"), namespace=st.sampled_from(["default", "nodemesh-system"])
        ),
        matched_labels=st.sampled_from([{}, {"app": "api"}, {"app": "web"}]),
        services=st.sampled_from(["api", "web"]),
    ),
    max_size=4,
    unique_by=lambda policy: policy.name,
)
sources = st.sampled_from(EVERYONE)
port_numbers = st.sampled_from([80, 443, 8080])
addresses = st.sampled_from([None, "10.1.2.3", "10.9.9.9", "192.0.2.1", "fd00::1", "::ffff:10.1.2.3"])
requests = st.builds(
    AuthRequest,
    source=sources,
    port=port_numbers,
    source_ip=addresses,
    remote_ip=addresses,
    destination_ip=addresses,
    sni=st.sampled_from([None, "web", "api.example.com"]),
    http=st.none()
    | st.builds(
        HttpRequest,
        method=strategies.methods,
        path=strategies.paths,
        host=strategies.hosts,
        headers=st.dictionaries(strategies.header_names, strategies.header_values, max_size=2),
    ),
)
peer_authentications = st.lists(
    strategies.peer_authentications(
        meta=st.builds(
            Metadata, name=st.sampled_from("abc"), namespace=st.sampled_from(["default", "batch"])
        ),
        matched_labels=st.sampled_from([{"app": "api"}, {"app": "web"}]),
        port_numbers=st.sampled_from([80, 443]),
    ),
    max_size=3,
    unique_by=lambda peers: peers.name,
)
modes = st.sampled_from([MtlsMode.STRICT, MtlsMode.PERMISSIVE])
defaults = st.sampled_from(DefaultAuthorization)
