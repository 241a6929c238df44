"""What administrators decide about nodes."""

import pytest

from registry.ca.authority import Authority
from registry.ca.enrolment import Registrar
from registry.ca.nodes import NodeEditor
from registry.errors import InvalidResource, NotFound
from registry.model.enrolment import Enrolment, Revocation, TrustBundle
from registry.model.parse import parse_as, render
from registry.model.revocation import CertificateFacts, RevocationList
from registry.store.memory import MemoryStore
from registry.store.signed import unsigned
from tests.registry.ca.joining import API, WEB, join, new_token
from tests.registry.ca.material import START, SetClock

BACKUP = WEB.replace("sa/web", "sa/backup")


@pytest.fixture
async def nodes(
    store: MemoryStore, authority: Authority, registrar: Registrar, clock: SetClock
) -> NodeEditor:
    """Give the editor of a mesh that web-1 has joined."""
    await join(registrar, await new_token(registrar))
    return NodeEditor(store=store, authority=authority, clock=clock)


async def revocations(store: MemoryStore) -> tuple[Revocation, ...]:
    item = await store.get("ca/bundle")
    assert item is not None
    return parse_as(TrustBundle, item.value, where=item.key).spec.revocations


async def test_allow(nodes: NodeEditor) -> None:
    """More identities may be held, each once, in order; doing it again changes nothing."""
    edited = await nodes.allow("web-1", ["default/backup", BACKUP, "default/web"])
    assert (edited.spec.identities, edited.changed) == ((BACKUP, WEB), True)
    assert not (await nodes.allow("web-1", ["default/web"])).changed


async def test_forbid(nodes: NodeEditor, store: MemoryStore) -> None:
    """An identity that is forbidden is no longer listed, and the node's certificates for it are revoked."""
    assert (await nodes.forbid("web-1", ["default/web"])).spec.identities == ()
    (revocation,) = await revocations(store)
    assert (revocation.kind, revocation.value) == ("grant", f"web-1 {WEB}")


async def test_forbid_concerns_one_node(nodes: NodeEditor, store: MemoryStore, clock: SetClock) -> None:
    """What is forbidden to one node stays good on every other, and its other identities too."""
    await nodes.forbid("web-1", ["default/web"])
    revoked = RevocationList(await revocations(store))

    def is_revoked(identity: str, node: str) -> bool:
        facts = CertificateFacts(identity=identity, node=node, serials=(1,), not_before=START)
        return revoked.find(facts) is not None

    clock.advance(minutes=10)
    found = [is_revoked(WEB, "web-1"), is_revoked(WEB, "web-2"), is_revoked(API, "web-1")]
    assert found == [False, False, False]
    # Certified before: certificates are dated back.
    await nodes.forbid("web-1", ["default/web"])
    revoked = RevocationList(await revocations(store))
    found = [is_revoked(WEB, "web-1"), is_revoked(WEB, "web-2"), is_revoked(API, "web-1")]
    assert found == [True, False, False]


async def test_revoke(nodes: NodeEditor, store: MemoryStore) -> None:
    """A revoked node is enrolled no more and its certificates are refused; doing it again is no error."""
    assert await nodes.revoke("web-1", reason="stolen")
    assert await store.get("enrolments/web-1") is None
    (revocation,) = await revocations(store)
    assert (revocation.kind, revocation.value, revocation.reason) == ("node", "web-1", "stolen")
    assert not await nodes.revoke("web-1", reason="stolen")


async def test_join_after_revocation(nodes: NodeEditor, registrar: Registrar, clock: SetClock) -> None:
    """A node that was revoked may be let in again by a new token."""
    await nodes.revoke("web-1", reason="")
    clock.advance(seconds=1)
    await join(registrar, await new_token(registrar))


async def test_approve_what_is_enrolled(nodes: NodeEditor) -> None:
    """Approving a node that is enrolled changes nothing."""
    assert not (await nodes.approve("web-1")).changed


async def test_approve_unsigned(nodes: NodeEditor, store: MemoryStore) -> None:
    """An administrator may vouch for an enrolment that is not signed: nothing else brings it back."""
    item = await store.get("enrolments/web-1")
    assert item is not None
    await store.put(item.key, render(unsigned(parse_as(Enrolment, item.value, where=""))))
    with pytest.raises(InvalidResource, match="is not signed"):
        await nodes.allow("web-1", ["default/api"])
    assert (await nodes.approve("web-1")).changed
    await nodes.allow("web-1", ["default/api"])


async def test_unknown_node(nodes: NodeEditor) -> None:
    """What is said of a node that does not exist says so."""
    for call in (nodes.approve("x"), nodes.allow("x", ["a/b"]), nodes.forbid("x", ["a/b"])):
        with pytest.raises(NotFound, match="no node named 'x'"):
            await call


@pytest.mark.parametrize("identity", ["web", "spiffe://other.test/ns/a/sa/b", "Default/web"])
async def test_no_identity(nodes: NodeEditor, identity: str) -> None:
    """What is no identity of this mesh is neither allowed nor forbidden."""
    for call in (nodes.allow("web-1", [identity]), nodes.forbid("web-1", [identity])):
        with pytest.raises(InvalidResource):
            await call
