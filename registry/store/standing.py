"""Whether a node's word counts, beyond its signature: it must be enrolled, and not revoked. Pure.

One rule for the node proxies, which send traffic, and for the registry, which shows what they do.
"""

from datetime import datetime

from registry.model.enrolment import EnrolmentSpec
from registry.model.resource import Resource
from registry.model.revocation import BACKDATE, RevocationList
from registry.model.workload import Workload
from registry.store.signed import Signer


def objection(
    resource: Resource,
    *,
    node: str,
    signer: Signer,
    enrolment: EnrolmentSpec | None,
    revocations: RevocationList,
) -> str:
    """Say why what `node` has signed of itself does not count; nothing when it does."""
    if enrolment is not None and enrolment.pending:
        return f"node {node} waits for approval: meshctl node approve {node}"
    if enrolment is None:
        return f"node {node} is not enrolled; let it join, or see what its enrolment lacks"
    revoked = revocations.find(signer.facts)
    if revoked is not None:
        why = f" ({revoked.reason})" if revoked.reason else ""
        return f"it is signed with a certificate revoked by {revoked.kind} at {revoked.revoked_at}{why}"
    # To the second, as the enrolment is written.
    if signer.facts.not_before + BACKDATE < _moment(enrolment.enrolled_at):
        return f"node {node} was enrolled anew since the certificate that signed it was issued"
    if isinstance(resource, Workload) and resource.spec.identity not in enrolment.identities:
        return (
            f"node {node} is not enrolled for {resource.spec.identity}; "
            f"`meshctl node allow {node} --identity …` lets it be"
        )
    return ""


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
