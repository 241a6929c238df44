"""Whether a certificate is revoked: one rule for the registry, which renews, and for the nodes, which accept.

Pure. The facts of a certificate come in as values; reading them from it is its reader's business.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from registry.model.enrolment import Revocation

# Hosts whose clocks are some minutes slow must accept a fresh certificate, so each is dated back by this.
BACKDATE: Final = timedelta(minutes=5)
# A certificate may not be asked to live longer, so that revocations need not be remembered longer either.
MAX_LEAF_LIFETIME: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What revocations look at.

    `node` is the node it was issued to: the name in the identity of a node's certificate, what the
    NODE_EXTENSION of a workload's says; empty if it says none. `serials` are those of the whole chain below
    the root, so that revoking an intermediate's serial revokes what it issued.
    """

    identity: str
    node: str
    serials: tuple[int, ...]
    not_before: datetime


class RevocationList:
    """Revocations, indexed: a look costs the same however many there are."""

    def __init__(self, revocations: Iterable[Revocation] = ()) -> None:
        self._found: dict[tuple[str, str], tuple[datetime, Revocation]] = {}
        for revocation in revocations:
            key = (revocation.kind, revocation.value)
            moment = _read(revocation.revoked_at)
            known = self._found.get(key)
            if known is None or known[0] < moment:
                self._found[key] = (moment, revocation)

    def __len__(self) -> int:
        return len(self._found)

    def find(self, facts: CertificateFacts) -> Revocation | None:
        """Give the revocation that covers a certificate, if any."""
        for serial in facts.serials:
            if (entry := self._found.get(("serial", f"{serial:x}"))) is not None:
                return entry[1]
        certified = facts.not_before + BACKDATE
        grant = f"{facts.node} {facts.identity}"
        for key in (("node", facts.node), ("identity", facts.identity), ("grant", grant)):
            entry = self._found.get(key)
            if entry is not None and certified <= entry[0]:
                return entry[1]
        return None


def _read(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        # The thirty-first of a shorter month: of the two ways to misread it, the one that lets nobody in.
        return datetime.max.replace(tzinfo=UTC)
