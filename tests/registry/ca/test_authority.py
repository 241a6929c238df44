"""The authority opens what founding sealed, and says clearly why if it cannot."""

from datetime import timedelta

import msgspec
import pytest
import trio
from cryptography import x509

from registry.ca import issuer, verifying
from registry.ca.authority import Authority, make_founding
from registry.ca.bundle import put_bundle, read_trust
from registry.ca.sealing import KeyFile, seal
from registry.errors import ConfigError
from registry.model.enrolment import TrustBundle, TrustBundleSpec
from registry.model.identity import WorkloadIdentity
from registry.model.parse import render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.store.memory import MemoryStore
from tests.registry.ca.material import KEK, START, TRUST_DOMAIN, SetClock, found_authority, new_key

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")


async def test_signs(store: MemoryStore, authority: Authority) -> None:
    """What it signs verifies by the bundle in the store."""
    issued = authority.sign(new_key().public_key(), WEB, node="web-1")
    trust = await read_trust(store)
    chain = x509.load_pem_x509_certificates(issued.chain_pem.encode())
    assert verifying.verify_chain(chain, roots=trust.roots, trust_domain=TRUST_DOMAIN, now=START) == WEB
    assert issued.not_after == START + timedelta(hours=24)


async def test_fingerprint(store: MemoryStore, authority: Authority) -> None:
    """What tokens pin is the hash of the root in the bundle."""
    assert authority.fingerprint == issuer.fingerprint((await read_trust(store)).roots[0])


async def test_lifetime(store: MemoryStore, authority: Authority, clock: SetClock) -> None:
    """The operator decides how long certificates last."""
    other = await Authority.load(store, kek=KEK, clock=clock, leaf_lifetime=timedelta(minutes=10))
    assert other.sign(new_key().public_key(), WEB, node="web-1").not_after == START + timedelta(minutes=10)


async def test_serials_differ(authority: Authority) -> None:
    """No two certificates have one serial number."""
    key = new_key().public_key()
    chains = (authority.sign(key, WEB, node="web-1").chain_pem for _ in range(20))
    serials = {x509.load_pem_x509_certificate(chain.encode()).serial_number for chain in chains}
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
    roots = msgspec.structs.replace((await read_trust(store)).spec, roots_pem=(foreign.root_pem,))
    write = put_bundle(roots, signed_by=authority.issuing, now=START)
    await store.put(write.key, write.value)
    with pytest.raises(ConfigError, match="not of a root in the trust bundle"):
        await Authority.load(store, kek=KEK, clock=clock)


async def test_chain(store: MemoryStore, authority: Authority) -> None:
    """A leaf comes with the intermediate that issued it, which the root certified; the root stays at home."""
    issued = authority.sign(new_key().public_key(), WEB, node="web-1")
    leaf, intermediate = x509.load_pem_x509_certificates(issued.chain_pem.encode())
    (root,) = (await read_trust(store)).roots
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    assert issuer.fingerprint(intermediate) == (await read_trust(store)).spec.issuer


class TestUpgrade:
    """A mesh that was founded when the root issued by itself."""

    @staticmethod
    async def found_old(store: MemoryStore) -> issuer.Signer:
        """Write what such a founding wrote."""
        root = issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=1, now=START)
        sealed = seal(
            root.key, kek=KEK, key_id="root", salt=bytes(32), nonce=bytes(12), certificate=root.certificate
        )
        await store.put("ca/keys/root", render(sealed))
        spec = TrustBundleSpec(trust_domain=TRUST_DOMAIN, roots_pem=(issuer.to_pem(root.certificate),))
        bundle = TrustBundle(
            api_version=NODEMESH,
            kind=TrustBundle.KIND,
            metadata=Metadata(name="bundle", namespace=ROOT_NAMESPACE),
            spec=spec,
        )
        await store.put("ca/bundle", render(bundle))
        return root

    async def test_intermediate_is_made(self, store: MemoryStore, clock: SetClock) -> None:
        """The next start makes the intermediate; the root stays, and leaves that it issued hold."""
        root = await self.found_old(store)
        before = issuer.issue_leaf(root, new_key().public_key(), WEB, node="web-1", serial=2, now=START)
        authority = await Authority.load(store, kek=KEK, clock=clock)
        trust = await read_trust(store)
        assert trust.roots == (root.certificate,)
        assert authority.fingerprint == issuer.fingerprint(root.certificate)
        after = authority.sign(new_key().public_key(), WEB, node="web-1")
        for chain in ([before], x509.load_pem_x509_certificates(after.chain_pem.encode())):
            verifying.verify_chain(chain, roots=trust.roots, trust_domain=TRUST_DOMAIN, now=START)

    async def test_replicas_agree(self, store: MemoryStore, clock: SetClock) -> None:
        """Of replicas that start at once one makes it, and all issue by it."""
        await self.found_old(store)
        loaded: list[Authority] = []

        async def load() -> None:
            loaded.append(await Authority.load(store, kek=KEK, clock=clock))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(load)
        assert {each.issuing.fingerprint for each in loaded} == {(await read_trust(store)).spec.issuer}
        assert len((await store.list("ca/keys/")).items) == 2
