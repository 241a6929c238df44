"""What a certificate says and what is wrong with it, for people. Pure; it decides nothing."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from registry.ca import issuer, verifying
from registry.clock import format_time
from registry.errors import Unauthenticated
from registry.model.identity import InvalidIdentity, parse_identity

E = TypeVar("E", bound=x509.ExtensionType)

_USAGES = {ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth", ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth"}


class CertificateReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A certificate's contents; `problems` are what a peer, or its holder, would trip over."""

    subject: str
    issued_by: str
    names: tuple[str, ...]
    node: str
    serial: str
    fingerprint: str
    not_before: str
    not_after: str
    authority: bool
    path_length: int | None
    key: str
    key_usage: tuple[str, ...]
    extended_key_usage: tuple[str, ...]
    problems: tuple[str, ...]


def report(certificate: x509.Certificate, *, now: datetime) -> CertificateReport:
    """Take a certificate apart."""
    names = _find(certificate, x509.SubjectAlternativeName)
    constraints = _find(certificate, x509.BasicConstraints)
    extended = _find(certificate, x509.ExtendedKeyUsage)
    key = certificate.public_key()
    return CertificateReport(
        subject=certificate.subject.rfc4514_string(),
        issued_by=certificate.issuer.rfc4514_string(),
        names=tuple(str(name.value) for name in names) if names else (),
        node=_node(certificate),
        serial=f"{certificate.serial_number:x}",
        fingerprint=issuer.fingerprint(certificate),
        not_before=format_time(certificate.not_valid_before_utc),
        not_after=format_time(certificate.not_valid_after_utc),
        authority=bool(constraints and constraints.ca),
        path_length=constraints.path_length if constraints else None,
        key=f"ECDSA {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__,
        key_usage=tuple(_usages(certificate)),
        extended_key_usage=tuple(_USAGES.get(each, each.dotted_string) for each in extended or ()),
        problems=tuple(_problems(certificate, now)),
    )


def chain_problem(
    chain: Sequence[x509.Certificate],
    *,
    roots: Sequence[x509.Certificate],
    trust_domain: str,
    now: datetime,
) -> str:
    """Say why a peer with these roots would not believe a chain (leaf first); empty if it would."""
    try:
        verifying.verify_chain(chain, roots=roots, trust_domain=trust_domain, now=now)
    except Unauthenticated as error:
        return str(error)
    return ""


def _find(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _node(certificate: x509.Certificate) -> str:
    try:
        domain = _uris(certificate)[0]
        return verifying.node_of(certificate, parse_identity(domain))
    except (IndexError, InvalidIdentity):
        return ""


def _uris(certificate: x509.Certificate) -> list[str]:
    names = _find(certificate, x509.SubjectAlternativeName)
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names else []


def _usages(certificate: x509.Certificate) -> Iterator[str]:
    usage = _find(certificate, x509.KeyUsage)
    if usage is None:
        return
    for said, name in (
        (usage.digital_signature, "digitalSignature"),
        (usage.content_commitment, "contentCommitment"),
        (usage.key_encipherment, "keyEncipherment"),
        (usage.key_agreement, "keyAgreement"),
        (usage.key_cert_sign, "keyCertSign"),
        (usage.crl_sign, "cRLSign"),
    ):
        if said:
            yield name


def _problems(certificate: x509.Certificate, now: datetime) -> Iterator[str]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        yield f"expired {_ago(now - end)} ago"
    elif now < begin:
        yield f"not valid for another {_ago(begin - now)}"
    constraints = _find(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        usage = _find(certificate, x509.KeyUsage)
        if usage is None or not usage.key_cert_sign:
            yield "an authority that may not sign certificates (key usage)"
        if constraints.path_length is None:
            yield "an authority without a path length, so it can make further authorities"
        return
    uris = _uris(certificate)
    extended = _find(certificate, x509.ExtendedKeyUsage)
    usages = set(extended or ())
    if not uris and usages == {ExtendedKeyUsageOID.SERVER_AUTH}:
        # The registry's own API.
        return
    if len(uris) != 1:
        yield f"{len(uris)} URI names; an identity has exactly one"
    for uri in uris:
        try:
            parse_identity(uri)
        except InvalidIdentity as error:
            yield str(error)
    for usage_needed, name in _USAGES.items():
        if usage_needed not in usages:
            yield f"lacks the extended key usage {name}"


def _ago(length: timedelta) -> str:
    if length >= timedelta(days=2):
        return f"{length.days} days"
    if length >= timedelta(hours=2):
        return f"{int(length.total_seconds() // 3600)} hours"
    return f"{int(length.total_seconds() // 60)} minutes"
