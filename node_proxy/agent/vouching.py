"""Whose word counts: signatures, enrolments and revocations, as `MeshState` asks for them. No I/O."""

from collections.abc import Callable, Iterable
from datetime import datetime

from node_proxy.certificate import read_roots
from registry.errors import InvalidResource
from registry.model.enrolment import Enrolment, Revocation, TrustBundle
from registry.model.resource import Resource
from registry.model.revocation import RevocationList
from registry.store import keys
from registry.store.base import KeyValue
from registry.store.signed import Signatures, SignedByAuthority, Signer, rule_for
from registry.store.standing import objection


class Vouching:
    """Believes what the roots in force vouch for.

    Args:
        signatures: verifies; its roots follow the trust bundle in force.
        now: the wall clock, in UTC.
        revocations: those that hold until a trust bundle says others.
    """

    def __init__(
        self,
        signatures: Signatures,
        now: Callable[[], datetime],
        revocations: Iterable[Revocation] = (),
    ) -> None:
        self.signatures = signatures
        self._now = now
        self._revocations = RevocationList(revocations)

    def trust(self, bundle: TrustBundle) -> None:
        """Follow an accepted trust bundle."""
        self.signatures.trust(read_roots(bundle.spec.roots_pem))
        self._revocations = RevocationList(bundle.spec.revocations)

    def check(self, item: KeyValue, *, fresh: bool, operators_sign: bool) -> Signer | None:
        """Demand the signature that belongs to a value; None where none is asked for.

        Args:
            item: what stands in the store.
            fresh: whether it is new, so that its signer's certificate must be valid now.
            operators_sign: whether what operators write must be signed.

        Raises:
            InvalidResource: it is not signed by whom it should be.
        """
        match rule_for(keys.parse(item.key)):
            case None:
                return None
            case SignedByAuthority(always=False) if not operators_sign:
                return None
            case _:
                return self.signatures.require(item.key, item.value, at=self._now() if fresh else None)

    def objection(
        self, place: str, value: bytes, resource: Resource, *, node: str | None, enrolment: Enrolment | None
    ) -> str:
        """Say why a signed value does not count now; nothing when it does."""
        try:
            # Again, since other roots may be trusted than when it was new.
            signer = self.signatures.require(place, value, at=None)
        except InvalidResource as error:
            return error.reason
        if node is None:
            return ""
        return objection(
            resource,
            node=node,
            signer=signer,
            enrolment=enrolment.spec if enrolment else None,
            revocations=self._revocations,
        )
