"""How a node's certificates follow the trust bundle; against the real registry."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from node_proxy.agent.certificates import Certificates
from node_proxy.agent.credentials import Keyring
from node_proxy.agent.standing import standing
from node_proxy.config import WorkloadConfig
from node_proxy.errors import ConfigError, EnrolmentError
from registry.ca.bundle import read_bundle
from registry.model.enrolment import FederatedDomain, Revocation, TrustBundleSpec
from registry.model.identity import NodeIdentity, WorkloadIdentity
from tests.node_proxy.agent.documents import TRUST_DOMAIN, seeded
from tests.node_proxy.agent.material import make_authority
from tests.node_proxy.agent.real_registry import RealRegistry

NODE = str(NodeIdentity(TRUST_DOMAIN, "web-1"))
WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
WORKLOAD = WorkloadConfig(name="web", ports=(8080,))
PATIENCE = 30.0


def now() -> datetime:
    """Give the wall clock."""
    return datetime.now(UTC)


def revoked(kind: str, value: str) -> Revocation:
    """Give a revocation of now."""
    return msgspec.convert(
        {
            "kind": kind,
            "value": value,
            "revokedAt": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "reason": "laptop stolen",
        },
        Revocation,
    )


class Node:
    """Node web-1 with the certificates it holds, and how often they changed."""

    def __init__(self, registry: RealRegistry, keyring: Keyring) -> None:
        self.keyring = keyring
        self.changes = 0
        self.certificates = Certificates(
            keyring=keyring,
            registry=registry.url,
            workloads=[WEB],
            default=WEB,
            changed=self._changed,
            now=now,
            rng=seeded(),
            spread=0.1,
        )

    def _changed(self) -> None:
        self.changes += 1

    def serials(self) -> dict[str, str]:
        """Give what is held, by identity."""
        return {each.identity: each.chain_pem for each in self.certificates.update().credentials}

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds."""
        with trio.fail_after(PATIENCE):
            while not condition():  # noqa: ASYNC110 (a thread and a registry decide)
                await trio.sleep(0.01)


@asynccontextmanager
async def running(registry: RealRegistry, keyring: Keyring) -> AsyncIterator[Node]:
    """Keep a node's certificates until the block ends; it begins when all are held."""
    node = Node(registry, keyring)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.certificates.keep_fresh)
        await node.until(lambda: not any("no valid" in line for line in node.certificates.missing))
        yield node
        nursery.cancel_scope.cancel()


@pytest.fixture
async def keyring(registry: RealRegistry, tmp_path: Path) -> Keyring:
    """Give the keyring of a node that has joined."""
    keyring = Keyring(tmp_path)
    await registry.join(keyring)
    return keyring


async def spec_of(registry: RealRegistry) -> TrustBundleSpec:
    """Give what the bundle says."""
    return (await read_bundle(registry.store)).spec


async def test_bundle_is_stored_for_the_next_start(registry: RealRegistry, keyring: Keyring) -> None:
    """What a bundle says is given to the workers and kept, so that a start without etcd trusts the same."""
    partner = FederatedDomain(trust_domain="partner.example", roots_pem=(make_authority().root_pem,))
    spec = msgspec.structs.replace(
        await spec_of(registry), federated=(partner,), revocations=(revoked("node", "web-9"),)
    )
    async with running(registry, keyring) as node:
        changes = node.changes
        node.certificates.follow(spec)
        assert node.changes == changes + 1
        node.certificates.follow(spec)
        assert node.changes == changes + 1
        update = node.certificates.update()
        assert (update.federated, update.revocations) == (spec.federated, spec.revocations)
        assert update.roots_pem == "".join(spec.roots_pem)
        await node.until(lambda: keyring.enrolment().revocations == spec.revocations)
    assert Node(registry, keyring).certificates.update().federated == (partner,)


async def test_revoked_identity_is_replaced(registry: RealRegistry, keyring: Keyring) -> None:
    """A revoked certificate is said to be so, loudly; another is asked for at once, and all is well."""
    async with running(registry, keyring) as node:
        before = node.serials()
        spec = msgspec.structs.replace(await spec_of(registry), revocations=(revoked("identity", str(WEB)),))
        with capture_logs() as logs:
            node.certificates.follow(spec)
        (text,) = node.certificates.missing
        assert f"the certificate of {WEB} is REVOKED: identity {WEB} at" in text
        assert "laptop stolen" in text
        assert [line["identity"] for line in logs if line["event"] == "certificate revoked"] == [str(WEB)]
        await node.until(lambda: not node.certificates.revoked)
        after = node.serials()
        assert after[str(WEB)] != before[str(WEB)]
        assert after[NODE] == before[NODE]


async def test_revoked_node_loses_all(registry: RealRegistry, keyring: Keyring) -> None:
    """Revoking the node revokes its own certificate and every workload's that it obtained."""
    async with running(registry, keyring) as node:
        spec = msgspec.structs.replace(await spec_of(registry), revocations=(revoked("node", "web-1"),))
        node.certificates.follow(spec)
        assert set(node.certificates.revoked) == {NODE, str(WEB)}


async def test_another_issuer(registry: RealRegistry, keyring: Keyring) -> None:
    """When another authority issues, every certificate is renewed soon, although it is fresh."""
    async with running(registry, keyring) as node:
        before = node.serials()
        node.certificates.follow(msgspec.structs.replace(await spec_of(registry), issuer="0" * 64))
        await node.until(lambda: all(node.serials()[each] != before[each] for each in before))


async def test_issuer_that_has_not_changed(registry: RealRegistry, keyring: Keyring) -> None:
    """A bundle that names who issued what is held costs no renewal."""
    async with running(registry, keyring) as node:
        before = node.serials()
        (issuer,) = node.certificates.issuers
        node.certificates.follow(msgspec.structs.replace(await spec_of(registry), issuer=issuer))
        await trio.sleep(0.5)
        assert node.serials() == before


async def test_damaged_roots(registry: RealRegistry, keyring: Keyring) -> None:
    """Roots that cannot be read are said at the start, with what to do."""
    keyring.save_enrolment(msgspec.structs.replace(keyring.enrolment(), roots=("nonsense",)))
    with pytest.raises(ConfigError, match=r"enrolment\.json: is damaged .* run `nodemesh-proxy join"):
        Node(registry, keyring)


class TestStanding:
    async def test_well(self, registry: RealRegistry, keyring: Keyring) -> None:
        """`check` names the roots that are trusted and each certificate with its end."""
        async with running(registry, keyring):
            pass
        roots, node, web = standing(keyring, [WORKLOAD], now=now())
        assert roots.startswith("trusts 1 root(s): ")
        assert node.startswith(f"{NODE}: valid until")
        assert web.startswith(f"{WEB}: valid until")

    async def test_revoked(self, registry: RealRegistry, keyring: Keyring) -> None:
        """`check` fails on a revoked certificate, and says how to come back."""
        enrolment = msgspec.structs.replace(keyring.enrolment(), revocations=(revoked("node", "web-1"),))
        keyring.save_enrolment(enrolment)
        with pytest.raises(
            EnrolmentError, match=r"is REVOKED: node web-1 .* `nodemesh-proxy join` bring it back"
        ):
            list(standing(keyring, [WORKLOAD], now=now()))

    async def test_expired(self, keyring: Keyring) -> None:
        """`check` fails on a certificate past its end, and hints at the clock."""
        later = now().replace(year=now().year + 1)
        with pytest.raises(EnrolmentError, match=r"this host's clock says .*; mend the clock"):
            list(standing(keyring, [], now=later))

    def test_before_joining(self, tmp_path: Path) -> None:
        """Before a node joins there is nothing to say of certificates, and that is no fault."""
        (line,) = standing(Keyring(tmp_path), [WORKLOAD], now=now())
        assert line.startswith("certificates not checked: ")
