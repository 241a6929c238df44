"""What a trust bundle must be to be taken: the one place of that rule. Pure.

The registry writes no other, and a node takes no other, whoever has written it.
"""

from collections.abc import Iterable
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from registry.errors import InvalidResource
from registry.model.enrolment import TrustBundleSpec

# What reading certificates and their extensions may raise.
_MALFORMED = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def check_bundle(spec: TrustBundleSpec, *, where: str) -> None:
    """Check that everybody can tell whom a bundle trusts, and for what.

    Raises:
        InvalidResource: somebody could not; says why.
    """
    ours = _check_roots(spec.roots_pem, where, "spec.rootsPem")
    seen: set[str] = set()
    for index, domain in enumerate(spec.federated):
        path = f"spec.federated[{index}]"
        if domain.trust_domain == spec.trust_domain:
            _refuse(where, f"{path}.trustDomain", f"{domain.trust_domain!r} is this mesh's own")
        if domain.trust_domain in seen:
            _refuse(where, f"{path}.trustDomain", f"{domain.trust_domain!r} is listed twice")
        seen.add(domain.trust_domain)
        if _check_roots(domain.roots_pem, where, f"{path}.rootsPem") & ours:
            _refuse(
                where, f"{path}.rootsPem", "has a root of this mesh: neither could be told from the other"
            )


def check_root(root: x509.Certificate, *, where: str, path: str) -> None:
    """Check that a certificate is an authority's that has signed itself.

    Raises:
        InvalidResource: it is not; names `path`.
    """
    try:
        authority = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (*_MALFORMED, x509.ExtensionNotFound):
        authority = False
    try:
        signs = root.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = True
    except _MALFORMED:
        signs = False
    if not (authority and signs):
        _refuse(where, path, "is no authority's certificate")
    try:
        root.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        # One that another root has certified bears the same name: its signature tells.
        _refuse(where, path, "is no root: another authority has signed it")


def _check_roots(pems: Iterable[str], where: str, path: str) -> set[bytes]:
    """Give the fingerprints of roots, each of which must be one."""
    found: set[bytes] = set()
    for index, pem in enumerate(pems):
        at = f"{path}[{index}]"
        try:
            (root,) = x509.load_pem_x509_certificates(pem.encode())
        except _MALFORMED:
            _refuse(where, at, "is not one certificate in PEM")
        check_root(root, where=where, path=at)
        found.add(root.fingerprint(hashes.SHA256()))
    if not found:
        _refuse(where, path, "is empty: nobody could be trusted")
    return found


def _refuse(where: str, path: str, reason: str) -> NoReturn:
    raise InvalidResource(where=where, path=path, reason=reason)
