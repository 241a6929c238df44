"""An authority of an operator's own, made by hand: it knows nothing of ours but the requests it certifies."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import issuer
from tests.registry.ca.material import START, new_key


class Company:
    """An authority as companies have them: it certifies the requests it is given."""

    def __init__(
        self, name: str = "Company Root", path_length: int | None = 2, *, now: datetime = START
    ) -> None:
        self.now = now
        self.key = new_key()
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.root = self.certify(self.key.public_key(), subject=self.name, path_length=path_length)

    @property
    def root_pem(self) -> str:
        """The root in PEM."""
        return issuer.to_pem(self.root)

    def certify(
        self,
        key: object,
        *,
        subject: x509.Name | None = None,
        authority: bool = True,
        path_length: int | None = 0,
        signs: bool = True,
        names: tuple[x509.GeneralName, ...] = (),
        constraints: x509.NameConstraints | None = None,
        lifetime: timedelta = timedelta(days=365),
    ) -> x509.Certificate:
        """Certify a key as an authority's, unless told otherwise."""
        assert isinstance(key, ec.EllipticCurvePublicKey)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mesh")]))
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=1))
            .not_valid_after(self.now + lifetime)
            .add_extension(
                x509.BasicConstraints(ca=authority, path_length=path_length if authority else None), True
            )
            .add_extension(issuer._key_usage(signs_certificates=signs), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        if constraints is not None:
            builder = builder.add_extension(constraints, True)
        return builder.sign(self.key, hashes.SHA256())
