"""Addresses the API listens at, and the certificate it shows there."""

import socket
import ssl
from datetime import timedelta

import pytest
import trio
from cryptography import x509
from trio.testing import MockClock

from registry.ca.authority import Authority
from registry.ca.bundle import read_trust
from registry.ca.rotating import Rotator
from registry.ca.rotation import SETTLE
from registry.clock import utc_now
from registry.errors import ConfigError
from registry.listening import Address, certificate_names, listen, parse_address, url_of
from registry.server_identity import RENEWAL_CHECK, ServerIdentity
from registry.store.memory import MemoryStore
from tests.registry.ca.material import KEK, SetClock, found_authority


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("127.0.0.1:15010", Address("127.0.0.1", 15010)),
            ("[::1]:15010", Address("::1", 15010)),
            ("0.0.0.0:0", Address("0.0.0.0", 0)),  # noqa: S104 - read, not bound
            ("registry.test:1", Address("registry.test", 1)),
        ],
    )
    def test_round_trip(self, text: str, address: Address) -> None:
        """An address is read as it is written."""
        assert parse_address(text) == address
        assert str(address) == text

    @pytest.mark.parametrize(
        "text", ["", ":80", "host", "host:", "host:x", "::1:80", "[::1]", "[host]:80", "h:²"]
    )
    def test_nonsense(self, text: str) -> None:
        """What is no address is told how one looks."""
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:15010"):
            parse_address(text)

    @pytest.mark.parametrize(
        ("listen", "names", "url"),
        [
            ("10.0.0.1:15010", (), "https://10.0.0.1:15010"),
            ("[::]:15010", (), "https://127.0.0.1:15010"),
            ("0.0.0.0:15010", ("mesh.test", "10.0.0.1"), "https://mesh.test:15010"),
            ("0.0.0.0:15010", ("fd00::1",), "https://[fd00::1]:15010"),
        ],
    )
    def test_url(self, listen: str, names: tuple[str, ...], url: str) -> None:
        """The API is reached by the first name given, else by an address that can be reached."""
        assert url_of(parse_address(listen), names) == url

    def test_names(self) -> None:
        """A certificate is good for the names given, the address and loopback, never for a wildcard."""
        assert certificate_names(Address("10.0.0.1", 1), ("mesh.test", "localhost")) == (
            "mesh.test",
            "localhost",
            "10.0.0.1",
            socket.gethostname(),
            "127.0.0.1",
            "::1",
        )
        assert "::" not in certificate_names(Address("::", 1), ())

    def test_taken(self) -> None:
        """An address that somebody has, or that is not ours, is named."""
        with listen(Address("127.0.0.1", 0)) as first, pytest.raises(ConfigError, match="cannot listen"):
            listen(Address(*first.getsockname()))
        with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
            listen(Address("192.0.2.1", 0))


def shake_hands(server: ssl.SSLContext, roots: str, name: str) -> x509.Certificate:
    """Give the certificate that a client of `name` gets and believes."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cadata=roots).wrap_bio(down, up, server_hostname=name)
    ours = server.wrap_bio(up, down, server_side=True)
    for side in (client, ours) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


class TestServerIdentity:
    @staticmethod
    async def found(clock: SetClock) -> tuple[Authority, str]:
        """Give the authority of a new mesh, and its root."""
        store = MemoryStore()
        authority = await found_authority(store, clock)
        (root,) = (await read_trust(store)).roots_pem
        return authority, root

    async def test_believed(self) -> None:
        """Clients that trust the mesh's root believe each of its names, and no other."""
        clock = SetClock(utc_now())
        authority, root = await self.found(clock)
        identity = ServerIdentity(authority=authority, names=("mesh.test", "127.0.0.1"), clock=clock)
        for name in ("mesh.test", "127.0.0.1"):
            shake_hands(identity.context, root, name)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(identity.context, root, "other.test")

    async def test_renewed(self, autojump_clock: MockClock) -> None:
        """When two thirds of its life are over the certificate is replaced, from the next handshake on."""
        # OpenSSL looks at the machine's clock: both certificates must be valid by it.
        clock = SetClock(utc_now() - timedelta(days=61))
        authority, root = await self.found(clock)
        identity = ServerIdentity(authority=authority, names=("mesh.test",), clock=clock)
        first = shake_hands(identity.context, root, "mesh.test")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(identity.keep_fresh)
            clock.advance(days=59)
            await trio.sleep(2 * RENEWAL_CHECK.total_seconds())
            assert shake_hands(identity.context, root, "mesh.test") == first
            clock.advance(days=2)
            await trio.sleep(2 * RENEWAL_CHECK.total_seconds())
            second = shake_hands(identity.context, root, "mesh.test")
            nursery.cancel_scope.cancel()
        assert second.not_valid_after_utc - first.not_valid_after_utc == timedelta(days=61)
        assert second.public_key() != first.public_key()

    async def test_rotation(self, autojump_clock: MockClock) -> None:
        """Whoever trusts the old root or the new one believes it, before, during and after a rotation."""
        clock, store = SetClock(utc_now()), MemoryStore()
        authority = await found_authority(store, clock)
        # Another replica's: this one has to find out.
        rotator = Rotator(store=store, authority=await found_again(store, clock), clock=clock)
        identity = ServerIdentity(authority=authority, names=("mesh.test",), clock=clock)
        (old,) = (await read_trust(store)).roots_pem
        async with trio.open_nursery() as nursery:
            nursery.start_soon(identity.keep_fresh)
            await rotator.start_root()
            new = (await read_trust(store)).roots_pem[1]
            shake_hands(identity.context, old, "mesh.test")
            await rotator.advance(force=True)
            await trio.sleep(SETTLE.total_seconds())
            for root in (old, new, old + new):
                shake_hands(identity.context, root, "mesh.test")
            await rotator.advance(force=True)
            await trio.sleep(SETTLE.total_seconds())
            for root in (old, new):
                shake_hands(identity.context, root, "mesh.test")
            nursery.cancel_scope.cancel()

    async def test_store_away(self, autojump_clock: MockClock) -> None:
        """Without the store the certificate it has stays in use, and it is renewed when the store is back."""
        clock, store = SetClock(utc_now()), MemoryStore()
        authority = await found_authority(store, clock)
        identity = ServerIdentity(authority=authority, names=("mesh.test",), clock=clock)
        (root,) = (await read_trust(store)).roots_pem
        first = shake_hands(identity.context, root, "mesh.test")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(identity.keep_fresh)
            with store.outage():
                await trio.sleep(3 * RENEWAL_CHECK.total_seconds())
                assert shake_hands(identity.context, root, "mesh.test") == first
            await Rotator(store=store, authority=authority, clock=clock).start_intermediate()
            await trio.sleep(2 * RENEWAL_CHECK.total_seconds())
            assert shake_hands(identity.context, root, "mesh.test").issuer != first.issuer
            nursery.cancel_scope.cancel()


async def found_again(store: MemoryStore, clock: SetClock) -> Authority:
    return await Authority.load(store, kek=KEK, clock=clock)
