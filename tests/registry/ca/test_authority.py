"""The authority opens what founding sealed, and says clearly why if it cannot."""

from datetime import timedelta

import pytest
from cryptography import x509

from registry.ca import issuer
from registry.ca.authority import Authority, make_founding, read_trust
from registry.ca.sealing import KeyFile
from registry.errors import ConfigError
from registry.model.identity import WorkloadIdentity
from registry.store.memory import MemoryStore
from tests.registry.ca.material import KEK, START, TRUST_DOMAIN, SetClock, found_authority, new_key

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")


async def test_signs(store: MemoryStore, authority: Authority) -> None:
    """What it signs verifies by the bundle in the store."""
    issued = authority.sign(new_key().public_key(), WEB)
    trust = await read_trust(store)
    chain = x509.load_pem_x509_certificates(issued.chain_pem.encode())
    assert issuer.verify_chain(chain, roots=trust.roots, trust_domain=TRUST_DOMAIN, now=START) == WEB
    assert issued.not_after == START + timedelta(hours=24)


async def test_fingerprint(store: MemoryStore, authority: Authority) -> None:
    """What tokens pin is the hash of the root in the bundle."""
    assert authority.fingerprint == issuer.fingerprint((await read_trust(store)).roots[0])


async def test_lifetime(store: MemoryStore, authority: Authority, clock: SetClock) -> None:
    """The operator decides how long certificates last."""
    other = await Authority.load(store, kek=KEK, clock=clock, leaf_lifetime=timedelta(minutes=10))
    assert other.sign(new_key().public_key(), WEB).not_after == START + timedelta(minutes=10)


async def test_serials_differ(authority: Authority) -> None:
    """No two certificates have one serial number."""
    key = new_key().public_key()
    serials = {x509.load_pem_x509_certificate(authority.sign(key, WEB).chain_pem.encode()).serial_number
               for _ in range(20)}  # fmt: skip
    assert len(serials) == 20


async def test_wrong_kek(store: MemoryStore, authority: Authority, clock: SetClock) -> None:
    """With the wrong key-encryption key it does not start, and names the mistake."""
    with pytest.raises(ConfigError, match="wrong key-encryption key"):
        await Authority.load(store, kek=KeyFile(b"x" * 32), clock=clock)


async def test_empty_store(store: MemoryStore, clock: SetClock) -> None:
    """Where no mesh was founded it says what to run."""
    with pytest.raises(ConfigError, match="nodemesh-registry init"):
        await Authority.load(store, kek=KEK, clock=clock)


async def test_founded_once(store: MemoryStore, clock: SetClock) -> None:
    """A second founding changes nothing."""
    first = await found_authority(store, clock)
    second = make_founding(trust_domain=TRUST_DOMAIN, kek=KEK, now=START)
    assert await store.commit(second.conditions, second.writes) is None
    assert (await Authority.load(store, kek=KEK, clock=clock)).fingerprint == first.fingerprint


async def test_foreign_bundle(store: MemoryStore, authority: Authority, clock: SetClock) -> None:
    """A signing key that no peer would believe is noticed at the start, not in every handshake."""
    foreign = make_founding(trust_domain=TRUST_DOMAIN, kek=KEK, now=START)
    await store.put(foreign.writes[1].key, foreign.writes[1].value)
    with pytest.raises(ConfigError, match="not in the trust bundle"):
        await Authority.load(store, kek=KEK, clock=clock)
