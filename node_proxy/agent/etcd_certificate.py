"""The node's etcd client certificate: kept beside its credentials, renewed like them, used unasked.

etcd knows the node by this certificate's common name. It is for etcd alone: no peer of a tunnel takes it.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from node_proxy.agent.files import private_directory, write_private
from node_proxy.agent.renewal import LONGEST_SLEEP, renew_at, retry_after
from node_proxy.config import EtcdSection
from node_proxy.errors import ConfigError, EnrolmentError
from registry.errors import ConfigError as StoreConfigError
from registry.store.config import EtcdConfig

log = structlog.get_logger("node_proxy.agent.etcd_certificate")


@dataclass(frozen=True, slots=True)
class EtcdCredential:
    """A certificate chain (leaf first) for an etcd user, and its private key, both PEM."""

    chain_pem: str
    key_pem: str
    not_before: datetime
    not_after: datetime


def hold_for_etcd(chain_pem: str, key: ec.EllipticCurvePrivateKey) -> EtcdCredential:
    """Join a chain to its key, after checking that they belong together.

    Raises:
        EnrolmentError: the chain is malformed, or for another key.
    """
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem.encode())[0]
    except ValueError as error:
        raise EnrolmentError("unusable certificate for etcd: it is none") from error
    if leaf.public_key() != key.public_key():
        raise EnrolmentError("the certificate for etcd is for another key than the one asked for")
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return EtcdCredential(chain_pem, key_pem.decode(), leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def is_wanted(etcd: EtcdSection) -> bool:
    """Whether etcd is spoken to by TLS, and the operator named no other credentials."""
    return etcd.ca is not None and etcd.cert is None and etcd.user is None


class EtcdCertificateFile:
    """``credentials/etcd.pem`` below the state directory: key, then chain, in one file so that they agree."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "credentials" / "etcd.pem"

    def save(self, credential: EtcdCredential) -> None:
        """Keep it.

        Raises:
            OSError, ConfigError: it cannot be written; the older one stands.
        """
        private_directory(self.path.parent)
        write_private(self.path, (credential.key_pem + credential.chain_pem).encode())

    def load(self) -> EtcdCredential | None:
        """Read it; None if there is none that is of use."""
        try:
            text = self.path.read_text(encoding="ascii")
            key = serialization.load_pem_private_key(text.encode(), password=None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                _, begin, rest = text.partition("-----BEGIN CERTIFICATE-----")
                return hold_for_etcd(begin + rest, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, EnrolmentError) as error:
            log.warning("stored etcd certificate unusable, asking for another", error=str(error))
        return None

    def configured(self, config: EtcdConfig) -> EtcdConfig:
        """Give the store's configuration with this certificate, if there is one."""
        if self.load() is None:
            return config
        return replace(config, cert=self.path, key=self.path)


class EtcdCertificateKeeper:
    """Keeps the certificate fresh, and the store connected with it.

    Args:
        file: where it is kept.
        obtain: asks the registry for another.
        connect: connects the store anew with the certificate in the file.
        now: the wall clock, in UTC.
        rng: jitter.
    """

    def __init__(
        self,
        file: EtcdCertificateFile,
        *,
        obtain: Callable[[], Awaitable[EtcdCredential]],
        connect: Callable[[], Awaitable[None]],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self._file = file
        self._obtain = obtain
        self._connect = connect
        self._now = now
        self._rng = rng

    async def keep_fresh(self) -> None:
        """Renew for ever; cancellation keeps what is held."""
        held = await trio.to_thread.run_sync(self._file.load)
        while True:
            if held is not None:
                await self._wait_until(renew_at(held.not_before, held.not_after, self._rng))
            held = await self._renew()
            try:
                await trio.to_thread.run_sync(self._file.save, held)
                await self._connect()
            except (OSError, ConfigError, StoreConfigError) as error:
                # The one in use may still be good; the disk may be mended before the next attempt.
                log.error("etcd certificate not stored", error=str(error))  # noqa: TRY400 (the disk's fault)
            # A registry whose clock is far behind gives what looks half spent.
            await trio.sleep(LONGEST_SLEEP)

    async def _renew(self) -> EtcdCredential:
        failures = 0
        while True:
            try:
                held = await self._obtain()
            except EnrolmentError as error:
                failures += 1
                delay = retry_after(failures, self._rng)
                log.warning("etcd certificate renewal failed", error=str(error), retry_in=round(delay, 1))
                await trio.sleep(delay)
            else:
                log.info("etcd certificate renewed", expires=held.not_after.isoformat())
                return held

    async def _wait_until(self, moment: datetime) -> None:
        while (left := (moment - self._now()) / timedelta(seconds=1)) > 0:  # noqa: ASYNC110 (a wall clock)
            await trio.sleep(min(left, LONGEST_SLEEP))
