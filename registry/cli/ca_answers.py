"""What the registry answers about its certificate authority. Fields we do not know are ignored."""

from registry.cli.answers import Answer


class CertificateView(Answer, frozen=True, kw_only=True):
    """A signing certificate; `key` is ``etcd`` or ``external``."""

    subject: str
    serial: str
    fingerprint: str
    not_before: str
    not_after: str
    days_left: int
    key: str


class HoldUpView(Answer, frozen=True, kw_only=True):
    """Why a rotation waits, and until when at most."""

    why: str
    until: str | None = None


class RotationView(Answer, frozen=True, kw_only=True):
    """A rotation under way."""

    phase: str
    started_at: str
    since: str
    root: str
    issuer: str
    outgoing: tuple[str, ...] = ()
    waits_for: tuple[HoldUpView, ...] = ()


class RotationMoved(Answer, frozen=True, kw_only=True):
    """Whether a step was taken, and what is under way then."""

    moved: bool
    rotation: RotationView | None = None


class RevocationView(Answer, frozen=True, kw_only=True):
    """A revocation; without `expires_at` it is for good."""

    kind: str
    value: str
    revoked_at: str
    reason: str = ""
    expires_at: str | None = None


class Revoked(Answer, frozen=True, kw_only=True):
    """What was revoked; `enrolled` says of a node whether one of that name is enrolled."""

    revocation: RevocationView
    enrolled: bool | None = None


class Lifted(Answer, frozen=True, kw_only=True):
    """A revocation that is no more."""

    kind: str
    value: str


class FederatedView(Answer, frozen=True, kw_only=True):
    """A trust domain whose identities are recognised, by its roots' fingerprints."""

    trust_domain: str
    roots: tuple[str, ...] = ()


class AuthorityView(Answer, frozen=True, kw_only=True):
    """Everything about the authority."""

    trust_domain: str
    revision: int
    leaf_seconds: int
    issuer: CertificateView
    roots: tuple[CertificateView, ...]
    rotation: RotationView | None = None
    revocations: tuple[RevocationView, ...] = ()
    federated: tuple[FederatedView, ...] = ()
