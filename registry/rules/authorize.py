"""Who may reach a workload: DENY, then ALLOW, then the mesh's default.

Pure. One evaluator for the proxies, the control plane and the CLI: `authorize` answers, `explain` shows
the way to the same answer. AUDIT policies and dry runs are asked and reported, and never change it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from registry.model.authorization import Action, AuthorizationPolicy
from registry.model.identity import Identity
from registry.model.mesh import DefaultAuthorization
from registry.model.resource import ROOT_NAMESPACE
from registry.rules.matching import CompiledPolicy, compile_policy, request_of


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to dial. `policy` is ``namespace/name``, empty when the mesh's default decided.

    `audited` names the AUDIT policies and dry runs that matched.
    """

    policy: str
    reason: str
    audited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Denied:
    """A refusal, which is a value. `policy` is the policy to look at, empty for the mesh's default.

    When there are ALLOW policies and none matched, it is the first of them; `reason` names all.
    """

    policy: str
    reason: str
    audited: tuple[str, ...] = ()


Decision = Permit | Denied


@dataclass(frozen=True, slots=True)
class WorkloadPolicies:
    """What holds for one workload: the policies that select it, each list ordered by name.

    `observed` are AUDIT policies and dry runs. `closed_by` is the key that never parsed, if there is one.
    """

    denying: tuple[CompiledPolicy, ...]
    allowing: tuple[CompiledPolicy, ...]
    observed: tuple[CompiledPolicy, ...]
    default: DefaultAuthorization
    closed_by: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy says: the number of the `rule` that matched, or `why_not`: the fields that did not."""

    policy: str
    action: Action
    dry_run: bool
    rule: int | None
    why_not: tuple[str, ...]

    @property
    def matched(self) -> bool:
        """Whether the policy matched."""
        return self.rule is not None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, and what every policy that selects the workload says, in the order they are asked."""

    decision: Decision
    verdicts: tuple[Verdict, ...]


def compile_policies(
    policies: Iterable[AuthorizationPolicy],
    *,
    namespace: str,
    labels: Mapping[str, str],
    default: DefaultAuthorization,
    closed_by: str | None = None,
    root_namespace: str = ROOT_NAMESPACE,
) -> WorkloadPolicies:
    """Pick the policies that select the workload with `labels` in `namespace`, ready to be asked.

    Args:
        policies: of all namespaces.
        namespace: the workload's.
        labels: the workload's.
        default: what holds when no ALLOW policy selects the workload.
        closed_by: the key of a policy of this namespace that never parsed: every request is refused.
        root_namespace: its policies select in every namespace.
    """
    selecting = sorted(
        (policy for policy in policies if _selects(policy, namespace, labels, root_namespace)),
        key=lambda policy: policy.name,
    )
    compiled = [compile_policy(policy) for policy in selecting]
    enforced = [policy for policy in compiled if not policy.dry_run]
    return WorkloadPolicies(
        denying=tuple(policy for policy in enforced if policy.action is Action.DENY),
        allowing=tuple(policy for policy in enforced if policy.action is Action.ALLOW),
        observed=tuple(policy for policy in compiled if policy.dry_run or policy.action is Action.AUDIT),
        default=default,
        closed_by=closed_by,
    )


def authorize(policies: WorkloadPolicies, *, source: Identity | None, port: int) -> Decision:
    """Say whether `source` (None: not authenticated) may reach the workload's `port`."""
    request = request_of(source, port)
    audited: tuple[str, ...] = ()
    if policies.observed:
        audited = tuple(policy.name for policy in policies.observed if policy.match(request) is not None)
    if policies.closed_by is not None:
        # Of <plural>/<namespace>/<name>, the policy's name.
        name = policies.closed_by.partition("/")[2]
        return Denied(name, f"{policies.closed_by} never parsed, so its namespace is closed", audited)
    for policy in policies.denying:
        rule = policy.match(request)
        if rule is not None:
            return Denied(policy.name, f"rule {rule} of the DENY policy {policy.name} matches", audited)
    for policy in policies.allowing:
        rule = policy.match(request)
        if rule is not None:
            return Permit(policy.name, f"rule {rule} of the ALLOW policy {policy.name} matches", audited)
    if policies.allowing:
        names = ", ".join(policy.name for policy in policies.allowing)
        return Denied(policies.allowing[0].name, f"no ALLOW policy matches, of {names}", audited)
    if policies.default is DefaultAuthorization.ALLOW:
        return Permit("", "the mesh allows what no policy decides", audited)
    return Denied("", "the mesh denies what no policy allows", audited)


def explain(policies: WorkloadPolicies, *, source: Identity | None, port: int) -> Explanation:
    """Give the decision of `authorize` and what each policy had to say, including those not reached."""
    request = request_of(source, port)
    verdicts = []
    for policy in (*policies.denying, *policies.allowing, *policies.observed):
        failing: list[str] = []
        rule = policy.match(request, failing)
        why_not = () if rule is not None else tuple(failing) or ("spec.rules",)
        verdicts.append(Verdict(policy.name, policy.action, policy.dry_run, rule, why_not))
    return Explanation(authorize(policies, source=source, port=port), tuple(verdicts))


def _selects(
    policy: AuthorizationPolicy, namespace: str, labels: Mapping[str, str], root_namespace: str
) -> bool:
    if policy.metadata.namespace not in (namespace, root_namespace):
        return False
    selector = policy.spec.selector
    return selector is None or selector.match_labels.items() <= labels.items()
