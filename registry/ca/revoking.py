"""Revocations and federated trust domains: what operators change in the trust bundle.

The first half is pure: bundles in, bundles out. `Editor` carries them out, by compare-and-swap.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal

import msgspec
import structlog
from cryptography import x509

from registry.ca import issuer, verifying
from registry.ca.authority import Authority
from registry.ca.bundle import put_bundle
from registry.clock import Clock, format_time, parse_time
from registry.errors import Conflict, InvalidResource, NotFound
from registry.model.enrolment import (
    MAX_FEDERATED,
    MAX_REVOCATIONS,
    FederatedDomain,
    Revocation,
    TrustBundleSpec,
)
from registry.model.identity import LABEL, InvalidIdentity, WorkloadIdentity
from registry.model.revocation import BACKDATE, MAX_LEAF_LIFETIME
from registry.store.base import Store

Kind = Literal["node", "identity", "serial", "grant"]

# Replicas and the controller compete for the bundle, and there are few of them.
ATTEMPTS: Final = 16
# RFC 5280 section 4.1.2.2: at most 20 octets.
_MAX_SERIAL_DIGITS: Final = 40
# An operator's roots in PEM.
_MAX_ROOTS: Final = 16

_log = structlog.get_logger()


def read_value(kind: Kind, text: str, *, trust_domain: str) -> str:
    """Give what a revocation names, in the one form that is compared.

    Raises:
        InvalidResource: it is no node's name, identity or serial.
    """
    match kind:
        case "node":
            if not LABEL.match(text):
                raise _bad("value", f"{text!r} is no node's name", "write it as `meshctl node list` shows it")
            return text
        case "identity":
            try:
                return str(WorkloadIdentity.from_short(text, trust_domain))
            except InvalidIdentity as error:
                raise _bad("value", str(error), "for a node's identity revoke the node") from error
        case "grant":
            node, _, identity = text.partition(" ")
            return " ".join(
                (
                    read_value("node", node, trust_domain=trust_domain),
                    read_value("identity", identity, trust_domain=trust_domain),
                )
            )
        case "serial":
            digits = text.lower().replace(":", "").removeprefix("0x").lstrip("0")
            if not digits or len(digits) > _MAX_SERIAL_DIGITS or set(digits) - set("0123456789abcdef"):
                raise _bad("value", f"{text!r} is no serial number", "write hexadecimal digits")
            return digits


def revoke(spec: TrustBundleSpec, kind: Kind, value: str, *, reason: str, now: datetime) -> TrustBundleSpec:
    """Revoke what was certified until now; a revocation of the same before is replaced.

    Raises:
        Conflict: there are as many as a bundle holds.
    """
    # A serial may be an intermediate's, of which nobody knows here how long it lives.
    ends = "" if kind == "serial" else format_time(now + MAX_LEAF_LIFETIME + BACKDATE)
    new = Revocation(kind=kind, value=value, revoked_at=format_time(now), reason=reason, expires_at=ends)
    kept = [each for each in collect(spec, now=now).revocations if (each.kind, each.value) != (kind, value)]
    if len(kept) >= MAX_REVOCATIONS:
        raise Conflict(
            f"{MAX_REVOCATIONS} revocations are in force, more than every node should have to read; "
            "rotate the intermediate or lift some with `meshctl ca unrevoke`"
        )
    return msgspec.structs.replace(spec, revocations=(*kept, new))


def unrevoke(spec: TrustBundleSpec, kind: Kind, value: str) -> TrustBundleSpec:
    """Lift a revocation.

    Raises:
        NotFound: there is none.
    """
    kept = tuple(each for each in spec.revocations if (each.kind, each.value) != (kind, value))
    if len(kept) == len(spec.revocations):
        raise NotFound(f"no {kind} {value} is revoked; `meshctl ca status` lists what is")
    return msgspec.structs.replace(spec, revocations=kept)


def collect(spec: TrustBundleSpec, *, now: datetime) -> TrustBundleSpec:
    """Forget the revocations of certificates that are past their life anyway."""
    kept = tuple(
        each for each in spec.revocations if not each.expires_at or parse_time(each.expires_at) > now
    )
    return spec if kept == spec.revocations else msgspec.structs.replace(spec, revocations=kept)


def federate(spec: TrustBundleSpec, trust_domain: str, roots_pem: str, *, now: datetime) -> TrustBundleSpec:
    """Recognise another mesh's identities by its roots, in place of those it had before.

    Raises:
        InvalidResource: the roots are no authorities' certificates valid now.
        Conflict: there are as many as a bundle holds.
    """
    try:
        roots = x509.load_pem_x509_certificates(roots_pem.encode())
    except ValueError as error:
        raise _bad(
            "roots", f"holds no certificates in PEM: {error}", "write the other mesh's roots"
        ) from error
    if len(roots) > _MAX_ROOTS:
        raise _bad("roots", f"holds {len(roots)} certificates", f"write at most {_MAX_ROOTS}")
    for root in roots:
        verifying.check_authority(root, what="roots", now=now)
    kept = [each for each in spec.federated if each.trust_domain != trust_domain]
    if len(kept) >= MAX_FEDERATED:
        raise Conflict(f"{MAX_FEDERATED} trust domains are federated, and no more can be")
    new = FederatedDomain(trust_domain=trust_domain, roots_pem=tuple(map(issuer.to_pem, roots)))
    return msgspec.structs.replace(spec, federated=(*kept, new))


def unfederate(spec: TrustBundleSpec, trust_domain: str) -> TrustBundleSpec:
    """Recognise another mesh's identities no more.

    Raises:
        NotFound: they were not recognised.
    """
    kept = tuple(each for each in spec.federated if each.trust_domain != trust_domain)
    if len(kept) == len(spec.federated):
        raise NotFound(f"the trust domain {trust_domain} is not federated")
    return msgspec.structs.replace(spec, federated=kept)


class Editor:
    """Carries changes of the bundle out."""

    def __init__(self, *, store: Store, authority: Authority, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock

    async def revoke(self, kind: Kind, text: str, *, reason: str) -> Revocation:
        """Revoke a node's or an identity's certificates until now, or a serial for good.

        Raises:
            InvalidResource: `text` names nothing of the kind.
            Conflict: too many are revoked, or the bundle changes too often.
        """
        value = read_value(kind, text, trust_domain=self._authority.trust_domain)
        spec = await self._edit(lambda spec: revoke(spec, kind, value, reason=reason, now=self._clock()))
        _log.warning("revoked", kind=kind, value=value, reason=reason)
        return spec.revocations[-1]

    async def unrevoke(self, kind: Kind, text: str) -> str:
        """Lift a revocation; gives what it named.

        Raises:
            InvalidResource: `text` names nothing of the kind.
            NotFound: it is not revoked.
        """
        value = read_value(kind, text, trust_domain=self._authority.trust_domain)
        await self._edit(lambda spec: unrevoke(spec, kind, value))
        _log.warning("revocation lifted", kind=kind, value=value)
        return value

    async def collect(self) -> None:
        """Forget what needs no remembering."""
        await self._edit(lambda spec: collect(spec, now=self._clock()))

    async def federate(self, trust_domain: str, roots_pem: str) -> FederatedDomain:
        """Recognise another mesh's identities.

        Raises:
            InvalidResource: the domain or its roots cannot be.
            Conflict: too many are recognised, or the bundle changes too often.
        """
        spec = await self._edit(lambda spec: federate(spec, trust_domain, roots_pem, now=self._clock()))
        _log.warning("federated", trust_domain=trust_domain)
        return spec.federated[-1]

    async def unfederate(self, trust_domain: str) -> None:
        """Recognise another mesh's identities no more.

        Raises:
            NotFound: they were not recognised.
        """
        await self._edit(lambda spec: unfederate(spec, trust_domain))
        _log.warning("federation ended", trust_domain=trust_domain)

    async def _edit(self, change: Callable[[TrustBundleSpec], TrustBundleSpec]) -> TrustBundleSpec:
        for _ in range(ATTEMPTS):
            trust = await self._authority.refresh()
            spec = change(trust.spec)
            if spec is trust.spec:
                return spec
            write = put_bundle(spec, signed_by=self._authority.issuing, now=self._clock())
            if await self._store.commit([trust.unchanged], [write]) is not None:
                return spec
        raise Conflict("the trust bundle changes too often; try again")


def _bad(path: str, reason: str, mend: str) -> InvalidResource:
    return InvalidResource(where="trust bundle", path=path, reason=reason, mend=mend)
