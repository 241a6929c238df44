"""What is most likely not meant in the policies, with what the control plane knows of the mesh. Pure."""

from collections.abc import Sequence

from registry.api.authz_view import MeshView
from registry.api.bodies import Answer
from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import InvalidIdentity, WorkloadIdentity, parse_identity
from registry.model.peer_authentication import PeerAuthentication
from registry.model.resource import Resource
from registry.model.service import Service
from registry.rules.findings import Finding
from registry.rules.lint import lint


class FindingAnswer(Answer, frozen=True, kw_only=True):
    """Something about a policy at one of its fields, and how to mend it."""

    severity: str
    check: str
    kind: str
    policy: str
    path: str
    message: str
    mend: str


class LintAnswer(Answer, frozen=True, kw_only=True):
    """What was found, the gravest first."""

    revision: int
    findings: tuple[FindingAnswer, ...]


def look(view: MeshView, candidates: Sequence[Resource]) -> tuple[FindingAnswer, ...]:
    """Look for what is not meant; with candidates only for what is about them, or comes from them."""
    if not candidates:
        return tuple(_describe(each) for each in _findings(view))
    before = frozenset(_findings(view))
    theirs = {(each.KIND, each.name) for each in candidates}
    return tuple(
        _describe(each)
        for each in _findings(view.changed_by(candidates))
        if (each.kind, each.policy) in theirs or each not in before
    )


def _findings(view: MeshView) -> tuple[Finding, ...]:
    return lint(
        view.stored(AuthorizationPolicy),
        services=view.stored(Service),
        workloads=[workload for node in view.fleet.values() for workload in node.workloads],
        trust_domain=view.trust_domain,
        peers=view.stored(PeerAuthentication),
        accounts=_accounts(view),
        federated=view.federated(),
    )


def _accounts(view: MeshView) -> set[WorkloadIdentity]:
    """Give the identities that nodes may hold."""
    found = set()
    for node in view.fleet.values():
        for text in node.enrolment.identities if node.enrolment is not None else ():
            try:
                identity = parse_identity(text)
            except InvalidIdentity:
                continue
            if isinstance(identity, WorkloadIdentity):
                found.add(identity)
    return found


def _describe(finding: Finding) -> FindingAnswer:
    return FindingAnswer(
        severity=finding.severity.value,
        check=finding.check.value,
        kind=finding.kind,
        policy=finding.policy,
        path=finding.path,
        message=finding.message,
        mend=finding.mend,
    )
