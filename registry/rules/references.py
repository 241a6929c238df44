"""Policies that name callers, workloads, services, ports which the mesh has not. Pure; part of `lint`."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, Self

from registry.model.authorization import AuthorizationPolicy
from registry.model.fields import show
from registry.model.identity import WorkloadIdentity
from registry.rules import facts
from registry.rules.findings import Check, Finding, Severity
from registry.rules.matching import Condition, compile_policy

_SPELLING: Final = "correct the spelling, or remove it if it is gone"


@dataclass(frozen=True, slots=True)
class Known:
    """What the mesh has. `trust_domains` are those whose callers are let in, its own included."""

    principals: frozenset[str]
    accounts: frozenset[str]
    namespaces: frozenset[str]
    services: frozenset[str]
    trust_domains: frozenset[str]
    own_trust_domain: str

    @classmethod
    def of(
        cls,
        identities: Collection[WorkloadIdentity],
        *,
        services: Collection[str],
        trust_domain: str,
        federated: Collection[str],
    ) -> Self:
        """Give what a mesh has that knows these callers and services."""
        return cls(
            principals=frozenset(each.principal for each in identities),
            accounts=frozenset(f"{each.namespace}/{each.account}" for each in identities),
            namespaces=frozenset(each.namespace for each in identities),
            services=frozenset(services),
            trust_domains=frozenset({trust_domain, *federated}),
            own_trust_domain=trust_domain,
        )

    def why_unknown(self, subject: int, value: str) -> str:
        """Say why no caller of the mesh is what a condition names; nothing if one may be."""
        if "*" in value:
            return ""
        match subject:
            case facts.PRINCIPAL:
                domain = value.partition("/")[0]
                if domain not in self.trust_domains:
                    return f"{show(value)} is of the trust domain {domain}, which is not let in"
                # What accounts another trust domain has is not known here.
                if domain == self.own_trust_domain and value not in self.principals:
                    return f"{show(value)} is the identity of no known service account"
            case facts.ACCOUNT:
                if value not in self.accounts:
                    return f"{show(value)} is no known service account"
            case facts.NAMESPACE:
                if value not in self.namespaces:
                    return f"{show(value)} is a namespace without service accounts"
            case _:
                pass
        return ""


def find_unknown_references(
    policy: AuthorizationPolicy, known: Known, *, selects_any: bool, ports: Collection[int]
) -> Iterator[Finding]:
    """Find what a policy names and the mesh does not have; `ports` are those of the workloads it selects."""
    missing = [
        (i, each.name)
        for i, each in enumerate(policy.spec.target_refs)
        if f"{policy.metadata.namespace}/{each.name}" not in known.services
    ]
    for i, name in missing:
        yield _finding(
            policy,
            f"spec.targetRefs[{i}].name",
            f"there is no Service {policy.metadata.namespace}/{name}",
            _SPELLING,
        )
    if not selects_any and not missing:
        path = "spec.selector.matchLabels" if policy.spec.selector else "spec.targetRefs"
        if not policy.spec.selector and not policy.spec.target_refs:
            path = "metadata.namespace"
        yield _finding(
            policy, path, "selects no workload that is registered", "correct it, or remove the policy"
        )
    for rule in compile_policy(policy).rules:
        clauses = rule.read
        for conditions in (*clauses.callers, *clauses.targets, clauses.when):
            for condition in conditions:
                yield from _condition(policy, condition, known, ports if selects_any else ())


def _condition(
    policy: AuthorizationPolicy, condition: Condition, known: Known, ports: Collection[int]
) -> Iterator[Finding]:
    if condition.subject == facts.PORT:
        unknown = [value for value in condition.values if ports and int(value) not in ports]
        for value in unknown:
            offered = ", ".join(map(str, sorted(ports)))
            yield _finding(
                policy,
                condition.path,
                f"{value} is a port of no workload that the policy selects, only {offered}",
                "write the workload's port, which a Service calls targetPort",
            )
        return
    for value in condition.values:
        if reason := known.why_unknown(condition.subject, value):
            yield _finding(policy, condition.path, reason, _SPELLING)


def _finding(policy: AuthorizationPolicy, path: str, message: str, mend: str) -> Finding:
    return Finding(Severity.WARNING, Check.UNKNOWN_REFERENCE, policy.KIND, policy.name, path, message, mend)
