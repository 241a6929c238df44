"""What an AuthorizationPolicy or a PeerAuthentication of the right shape may still get wrong by itself.

Pure. Above all: values that could never match, which are harmless in ALLOW and an open door in DENY.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from registry.model.authorization import (
    DRY_RUN_ANNOTATION,
    Action,
    Attribute,
    AuthorizationPolicy,
    Condition,
    Operation,
    Source,
    TargetRef,
)
from registry.model.fields import clip, field_path, show
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.model.problem import Problem, label_problems
from registry.model.resource import ROOT_NAMESPACE
from registry.model.unsupported import UNSUPPORTED_KEYS
from registry.model.value_checks import (
    Check,
    check_account,
    check_host,
    check_method,
    check_namespace,
    check_network,
    check_path,
    check_port,
    check_principal,
    check_text,
)

_CORE_GROUPS: Final = ("", "core")
_SUPPORTED_KEYS: Final = ", ".join(["request.headers[<name>]", *(each.value for each in Attribute)])
_CHECK_OF: Final[dict[Attribute, Check]] = {
    Attribute.SOURCE_IP: check_network,
    Attribute.REMOTE_IP: check_network,
    Attribute.SOURCE_NAMESPACE: check_namespace,
    Attribute.SOURCE_PRINCIPAL: check_principal,
    Attribute.SOURCE_SERVICE_ACCOUNT: check_account,
    Attribute.DESTINATION_IP: check_network,
    Attribute.DESTINATION_PORT: check_port,
    Attribute.CONNECTION_SNI: check_text,
}


def policy_problems(policy: AuthorizationPolicy) -> Iterator[Problem]:
    """Give everything that is wrong with a policy taken alone."""
    spec = policy.spec
    yield from _dry_run(policy)
    if spec.action is Action.DENY and not spec.rules:
        yield Problem(
            "spec.rules",
            "is empty, so the policy would never deny anything",
            "write [{}] to deny everything, or delete the policy",
        )
    if spec.selector is not None:
        yield from label_problems(spec.selector.match_labels, "spec.selector.matchLabels")
        if spec.target_refs:
            yield Problem("spec.targetRefs", "stands beside a selector", "keep one of them")
    for i, target in enumerate(spec.target_refs):
        yield from target_problems(target, f"spec.targetRefs[{i}]", policy.metadata.namespace)
    for i, rule in enumerate(spec.rules):
        for j, alternative in enumerate(rule.from_):
            yield from _source(alternative.source, f"spec.rules[{i}].from[{j}].source")
        for j, to in enumerate(rule.to):
            yield from _operation(to.operation, f"spec.rules[{i}].to[{j}].operation")
        for j, condition in enumerate(rule.when):
            yield from _condition(condition, f"spec.rules[{i}].when[{j}]")


def peer_problems(peers: PeerAuthentication) -> Iterator[Problem]:
    """Give everything that is wrong with a PeerAuthentication taken alone."""
    spec = peers.spec
    yield from label_problems(spec.labels, "spec.selector.matchLabels")
    if spec.labels and peers.metadata.namespace == ROOT_NAMESPACE:
        yield Problem(
            "spec.selector",
            f"stands in {ROOT_NAMESPACE}, where a PeerAuthentication is for the whole mesh",
            "remove it, or write the PeerAuthentication into the workload's namespace",
        )
    if spec.port_level_mtls and not spec.labels:
        yield Problem(
            "spec.portLevelMtls",
            "needs a selector: ports are those of a workload",
            "write selector.matchLabels, or spec.mtls alone",
        )
    if spec.mtls.mode is MtlsMode.UNSET and not spec.port_level_mtls:
        yield Problem("spec.mtls.mode", "is unset, so nothing is said", "write STRICT or PERMISSIVE")


def _dry_run(policy: AuthorizationPolicy) -> Iterator[Problem]:
    value = policy.metadata.annotations.get(DRY_RUN_ANNOTATION)
    path = field_path("metadata.annotations", DRY_RUN_ANNOTATION)
    if value not in (None, "true", "false"):
        yield Problem(path, f"{show(value)} is neither true nor false", 'write "true" or "false", in quotes')
    elif value == "false" and policy.spec.dry_run:
        yield Problem(path, "contradicts spec.dryRun", "keep one of them")


def target_problems(target: TargetRef, path: str, namespace: str) -> Iterator[Problem]:
    """Find a target that a policy of `namespace` cannot have."""
    if target.group not in _CORE_GROUPS:
        yield Problem(
            f"{path}.group", f"{clip(show(target.group))} has no Service of ours", 'write "", or leave it out'
        )
    if target.namespace not in (None, namespace):
        yield Problem(
            f"{path}.namespace",
            f"is another than the policy's, {namespace}",
            "leave it out, and write the policy into the Service's namespace",
        )


def _source(source: Source, path: str) -> Iterator[Problem]:
    if source == Source():
        yield Problem(
            path,
            "is empty",
            "write principals, namespaces, serviceAccounts or ipBlocks; for every caller leave `from` out",
        )
    if (source.service_accounts or source.not_service_accounts) and (
        source.principals or source.not_principals or source.namespaces or source.not_namespaces
    ):
        yield Problem(
            f"{path}.{'serviceAccounts' if source.service_accounts else 'notServiceAccounts'}",
            "stands beside principals or namespaces",
            "write all as principals: <trust domain>/ns/<namespace>/sa/<account>",
        )
    yield from _fields(
        path,
        ("principals", source.principals, check_principal),
        ("notPrincipals", source.not_principals, check_principal),
        ("namespaces", source.namespaces, check_namespace),
        ("notNamespaces", source.not_namespaces, check_namespace),
        ("serviceAccounts", source.service_accounts, check_account),
        ("notServiceAccounts", source.not_service_accounts, check_account),
        ("ipBlocks", source.ip_blocks, check_network),
        ("notIpBlocks", source.not_ip_blocks, check_network),
        ("remoteIpBlocks", source.remote_ip_blocks, check_network),
        ("notRemoteIpBlocks", source.not_remote_ip_blocks, check_network),
    )


def _operation(operation: Operation, path: str) -> Iterator[Problem]:
    if operation == Operation():
        yield Problem(
            path, "is empty", "write ports, hosts, methods or paths; for every request leave `to` out"
        )
    yield from _fields(
        path,
        ("hosts", operation.hosts, check_host),
        ("notHosts", operation.not_hosts, check_host),
        ("methods", operation.methods, check_method),
        ("notMethods", operation.not_methods, check_method),
        ("paths", operation.paths, check_path),
        ("notPaths", operation.not_paths, check_path),
    )


def _condition(condition: Condition, path: str) -> Iterator[Problem]:
    attribute = condition.attribute
    if attribute is None and condition.header is None:
        mend = next(
            (mend for begin, mend in UNSUPPORTED_KEYS.items() if condition.key.startswith(begin)),
            f"write one of {_SUPPORTED_KEYS}",
        )
        yield Problem(f"{path}.key", f"{clip(show(condition.key))} is not supported", mend)
        return
    if not condition.values and not condition.not_values:
        yield Problem(path, "has no values", "write values or notValues")
    check = check_text if attribute is None else _CHECK_OF[attribute]
    yield from _fields(path, ("values", condition.values, check), ("notValues", condition.not_values, check))


def _fields(path: str, *fields: tuple[str, Sequence[str], Check]) -> Iterator[Problem]:
    for name, values, check in fields:
        for i, value in enumerate(values):
            if (wrong := check(value)) is not None:
                yield Problem(f"{path}.{name}[{i}]", *wrong)
