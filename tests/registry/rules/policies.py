"""Policies in few words, read by the real parser, and strategies for more of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import NodeIdentity, WorkloadIdentity
from registry.model.mesh import DefaultAuthorization
from registry.model.parse import from_builtins
from registry.model.resource import Metadata
from registry.rules import WorkloadPolicies, compile_policies
from tests import strategies

WEB = WorkloadIdentity("nodemesh.local", "default", "web")
API = WorkloadIdentity("nodemesh.local", "default", "api")
BATCH = WorkloadIdentity("nodemesh.local", "batch", "web")
FOREIGN = WorkloadIdentity("other.example", "default", "web")
NODE = NodeIdentity("nodemesh.local", "n1")
EVERYONE = (WEB, API, BATCH, FOREIGN, NODE, None)


def policy(
    name: str = "p",
    *rules: Mapping[str, Any],
    action: str = "ALLOW",
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> AuthorizationPolicy:
    """Give a policy of `rules`; `labels` None means no selector."""
    spec: dict[str, Any] = {"action": action, "rules": list(rules), "dryRun": dry_run}
    if labels is not None:
        spec["selector"] = {"matchLabels": dict(labels)}
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
) -> WorkloadPolicies:
    """Compile for a workload of the namespace `default` with the label app=api."""
    return compile_policies(
        policies,
        namespace=namespace,
        labels={"app": "api"} if labels is None else labels,
        default=default,
        closed_by=closed_by,
    )


# Policies, callers and ports so few that they often meet.
few_policies = st.lists(
    strategies.policies(
        principals=st.sampled_from([WEB.principal, NODE.principal, "*", "nodemesh.local/ns/*", "*/sa/web"]),
        namespaces=st.sampled_from(["default", "batch", "*", "b*", "*t"]),
        port_numbers=st.sampled_from([80, 443]),
        meta=st.builds(
            Metadata, name=st.sampled_from("abcd"), namespace=st.sampled_from(["default", "nodemesh-system"])
        ),
        matched_labels=st.sampled_from([{}, {"app": "api"}, {"app": "web"}]),
    ),
    max_size=4,
    unique_by=lambda policy: policy.name,
)
sources = st.sampled_from(EVERYONE)
port_numbers = st.sampled_from([80, 443, 8080])
defaults = st.sampled_from(DefaultAuthorization)
