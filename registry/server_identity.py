"""The API server's TLS: a certificate of the mesh's own authority, renewed in place."""

import os
import ssl
from datetime import datetime, timedelta

import structlog
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca.authority import Authority, Issued
from registry.ca.issuer import SERVER_LIFETIME
from registry.clock import Clock
from registry.errors import RegistryError

# After the intermediate has changed, each replica shows a certificate of the new one well within
# `registry.ca.rotation.SETTLE`, before the old root can go.
RENEWAL_CHECK = timedelta(seconds=10)

_log = structlog.get_logger()


class ServerIdentity:
    """The API's TLS context, and a certificate in it that is renewed in place while it serves."""

    def __init__(self, *, authority: Authority, names: tuple[str, ...], clock: Clock) -> None:
        self._authority = authority
        self._names = names
        self._clock = clock
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self._issuer = ""
        self._renew_at = self._renew()

    async def keep_fresh(self) -> None:
        """Renew the certificate when two thirds of its life are over or its issuer goes, until cancelled."""
        while True:
            await trio.sleep(RENEWAL_CHECK.total_seconds())
            try:
                await self._authority.refresh()
                if self._clock() >= self._renew_at or self._issuer != self._authority.issuing.fingerprint:
                    self._renew_at = self._renew()
            except RegistryError as error:
                _log.warning("api certificate not renewed", reason=str(error))

    def _renew(self) -> datetime:
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._authority.sign_server(key.public_key(), self._names)
        _load(self.context, key, issued)
        self._issuer = self._authority.issuing.fingerprint
        _log.info("api certificate issued", names=self._names, until=issued.not_after.isoformat())
        return issued.not_after - min(SERVER_LIFETIME, issued.not_after - self._clock()) / 3


def _load(context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, issued: Issued) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # OpenSSL reads keys from files only; this one is in memory and has no name in the file system.
    descriptor = os.memfd_create("nodemesh-api", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem + issued.chain_pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
