"""Certificates of a made-up mesh, made by the registry's own issuer."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from node_proxy.agent.credentials import Held, hold, new_key
from registry.ca import issuer
from registry.model.identity import Identity
from tests.node_proxy.agent.documents import TRUST_DOMAIN

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class TestAuthority:
    """Signs what it is asked to."""

    # pytest collects by name.
    __test__ = False

    signer: issuer.Signer

    @property
    def root_pem(self) -> str:
        """The root in PEM."""
        return issuer.to_pem(self.signer.certificate)

    def chain(
        self,
        key: ec.EllipticCurvePrivateKey,
        identity: Identity,
        *,
        now: datetime = NOON,
        lifetime: timedelta = timedelta(hours=24),
    ) -> str:
        """Sign a certificate for `key`."""
        leaf = issuer.issue_leaf(
            self.signer, key.public_key(), identity, node="web-1", serial=7, now=now, lifetime=lifetime
        )
        return issuer.to_pem(leaf)

    def held(
        self, identity: Identity, *, now: datetime = NOON, lifetime: timedelta = timedelta(hours=24)
    ) -> Held:
        """Make a key and a certificate for it."""
        key = new_key()
        return hold(self.chain(key, identity, now=now, lifetime=lifetime), key)


def make_authority(*, now: datetime = NOON) -> TestAuthority:
    """Make a root that is valid for long around `now`."""
    return TestAuthority(
        issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=1, now=now - timedelta(days=30))
    )
