"""The certificate authority as its operators see it: its state, rotations, revocations, federation."""

from datetime import datetime
from typing import Annotated, Literal

from cryptography import x509
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.bodies import Answer, Asked, answer, decode, read_body
from registry.ca import issuer
from registry.ca.authority import Authority
from registry.ca.bundle import Trust
from registry.ca.keyring import read_keys
from registry.ca.revoking import Editor, Kind
from registry.ca.rotating import Rotator
from registry.clock import Clock, format_time
from registry.model.enrolment import MAX_REASON, FederatedDomain, Revocation
from registry.model.mesh import TrustDomain
from registry.store import keys
from registry.store.base import Store


class CertificateView(Answer, frozen=True, kw_only=True):
    """A signing certificate. `key` says where its private key is."""

    subject: str
    serial: str
    fingerprint: str
    not_before: str
    not_after: str
    days_left: int
    key: Literal["etcd", "external"]


class HoldUpAnswer(Answer, frozen=True, kw_only=True):
    """Why a rotation waits; `until` is when that ends by itself, null if it does not."""

    why: str
    until: str | None


class RotationAnswer(Answer, frozen=True, kw_only=True):
    """A rotation under way; `outgoing` are the roots that go, by fingerprint."""

    phase: str
    started_at: str
    since: str
    root: str
    issuer: str
    outgoing: tuple[str, ...]
    waits_for: tuple[HoldUpAnswer, ...]


class RevocationAnswer(Answer, frozen=True, kw_only=True):
    """A revocation; `expires_at` is null if it is for good."""

    kind: str
    value: str
    revoked_at: str
    reason: str
    expires_at: str | None


class FederatedAnswer(Answer, frozen=True, kw_only=True):
    """A trust domain whose identities are recognised, and its roots' fingerprints."""

    trust_domain: str
    roots: tuple[str, ...]


class AuthorityAnswer(Answer, frozen=True, kw_only=True):
    """Everything about the authority; `revision` is the bundle's."""

    trust_domain: str
    revision: int
    leaf_seconds: int
    issuer: CertificateView
    roots: tuple[CertificateView, ...]
    rotation: RotationAnswer | None
    revocations: tuple[RevocationAnswer, ...]
    federated: tuple[FederatedAnswer, ...]


class RotationAsked(Asked, frozen=True, kw_only=True):
    """Which rotation to start."""

    root: bool = False


class ContinueAsked(Asked, frozen=True, kw_only=True):
    """Whether to go on although something is waited for."""

    force: bool = False


class ContinueAnswer(Answer, frozen=True, kw_only=True):
    """Whether a step was taken, and what is under way then; null when the rotation is done."""

    moved: bool
    rotation: RotationAnswer | None


class RevocationAsked(Asked, frozen=True, kw_only=True):
    """What to revoke: a node's name, an identity (namespace/account or whole), a serial in hex."""

    kind: Kind
    value: str
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""


class LiftAsked(Asked, frozen=True, kw_only=True):
    """Which revocation to lift."""

    kind: Kind
    value: str


class LiftedAnswer(Answer, frozen=True, kw_only=True):
    """The revocation that is no more, as it was written."""

    kind: str
    value: str


class RevokedAnswer(Answer, frozen=True, kw_only=True):
    """The revocation; `enrolled` says of a node's whether a node of that name is enrolled."""

    revocation: RevocationAnswer
    enrolled: bool | None


class FederationAsked(Asked, frozen=True, kw_only=True):
    """Another mesh, and its roots in PEM."""

    trust_domain: TrustDomain
    roots: str


class AuthorityAdminHandlers:
    """``/v1/ca`` and what is below it, for administrators."""

    def __init__(
        self, *, store: Store, authority: Authority, administrators: Administrators, clock: Clock
    ) -> None:
        self._store = store
        self._authority = authority
        self._administrators = administrators
        self._rotator = Rotator(store=store, authority=authority, clock=clock)
        self._editor = Editor(store=store, authority=authority, clock=clock)
        self._clock = clock

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        only = self._administrators.only
        return [
            Route("/v1/ca", only(self.status)),
            Route("/v1/ca/rotation", only(self.rotate), methods=["POST"]),
            Route("/v1/ca/rotation", only(self.abort), methods=["DELETE"]),
            Route("/v1/ca/rotation/continue", only(self.go_on), methods=["POST"]),
            Route("/v1/ca/revocations", only(self.revoke), methods=["POST"]),
            Route("/v1/ca/revocations/lift", only(self.unrevoke), methods=["POST"]),
            Route("/v1/ca/federated", only(self.federate), methods=["POST"]),
            Route("/v1/ca/federated/{trust_domain}", only(self.unfederate), methods=["DELETE"]),
        ]

    async def status(self, _request: Request, _administrator: str) -> Response:
        """Give the authority's state."""
        trust = await self._authority.refresh()
        held = set(await read_keys(self._store))
        now = self._clock()
        return answer(
            AuthorityAnswer(
                trust_domain=trust.trust_domain,
                revision=trust.revision,
                leaf_seconds=int(self._authority.leaf_lifetime.total_seconds()),
                issuer=_certificate(self._authority.issuing.certificate, held, now),
                roots=tuple(_certificate(root, held, now) for root in trust.roots),
                rotation=await self._rotation(),
                revocations=tuple(map(_revocation, trust.spec.revocations)),
                federated=_federated(trust),
            )
        )

    async def rotate(self, request: Request, _administrator: str) -> Response:
        """Start a rotation."""
        asked = decode(await read_body(request), RotationAsked)
        await (self._rotator.start_root() if asked.root else self._rotator.start_intermediate())
        return answer(ContinueAnswer(moved=True, rotation=await self._rotation()))

    async def go_on(self, request: Request, _administrator: str) -> Response:
        """Take a rotation's next step."""
        asked = decode(await read_body(request), ContinueAsked)
        moved = await self._rotator.advance(force=asked.force)
        return answer(ContinueAnswer(moved=moved, rotation=await self._rotation()))

    async def abort(self, _request: Request, _administrator: str) -> Response:
        """Give a rotation up."""
        await self._rotator.abort()
        return answer(ContinueAnswer(moved=True, rotation=None))

    async def revoke(self, request: Request, _administrator: str) -> Response:
        """Revoke."""
        asked = decode(await read_body(request), RevocationAsked)
        revocation = await self._editor.revoke(asked.kind, asked.value, reason=asked.reason)
        enrolled = None
        if revocation.kind == "node":
            key = keys.render(keys.EnrolmentKey(revocation.value))
            enrolled = await self._store.get(key) is not None
        return answer(RevokedAnswer(revocation=_revocation(revocation), enrolled=enrolled))

    async def unrevoke(self, request: Request, _administrator: str) -> Response:
        """Lift a revocation."""
        asked = decode(await read_body(request), LiftAsked)
        return answer(
            LiftedAnswer(kind=asked.kind, value=await self._editor.unrevoke(asked.kind, asked.value))
        )

    async def federate(self, request: Request, _administrator: str) -> Response:
        """Recognise another mesh."""
        asked = decode(await read_body(request), FederationAsked)
        return answer(_domain(await self._editor.federate(asked.trust_domain, asked.roots)))

    async def unfederate(self, request: Request, _administrator: str) -> Response:
        """Recognise another mesh no more."""
        trust_domain = request.path_params["trust_domain"]
        await self._editor.unfederate(trust_domain)
        return answer({"trustDomain": trust_domain})

    async def _rotation(self) -> RotationAnswer | None:
        if (progress := await self._rotator.progress()) is None:
            return None
        spec = progress.spec
        return RotationAnswer(
            phase=spec.phase.value,
            started_at=spec.started_at,
            since=spec.since,
            root=spec.root,
            issuer=spec.issuer,
            outgoing=spec.outgoing,
            waits_for=tuple(
                HoldUpAnswer(why=each.why, until=format_time(each.until) if each.until else None)
                for each in progress.hold_ups
            ),
        )


def _certificate(certificate: x509.Certificate, held: set[str], now: datetime) -> CertificateView:
    fingerprint = issuer.fingerprint(certificate)
    return CertificateView(
        subject=certificate.subject.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        fingerprint=fingerprint,
        not_before=format_time(certificate.not_valid_before_utc),
        not_after=format_time(certificate.not_valid_after_utc),
        days_left=(certificate.not_valid_after_utc - now).days,
        key="etcd" if fingerprint in held else "external",
    )


def _revocation(revocation: Revocation) -> RevocationAnswer:
    return RevocationAnswer(
        kind=revocation.kind,
        value=revocation.value,
        revoked_at=revocation.revoked_at,
        reason=revocation.reason,
        expires_at=revocation.expires_at or None,
    )


def _federated(trust: Trust) -> tuple[FederatedAnswer, ...]:
    return tuple(map(_domain, trust.spec.federated))


def _domain(domain: FederatedDomain) -> FederatedAnswer:
    roots = (issuer.read_certificate(pem, where=domain.trust_domain) for pem in domain.roots_pem)
    return FederatedAnswer(trust_domain=domain.trust_domain, roots=tuple(map(issuer.fingerprint, roots)))
