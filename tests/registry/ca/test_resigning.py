"""What the authority signed stays signed by the key that issues, and what it never signed is adopted once."""

import pytest

from registry.ca.adoption import adopt
from registry.ca.authority import Authority
from registry.ca.enrolment import Registrar
from registry.ca.resigning import Resigner
from registry.ca.rotating import Rotator
from registry.model.enrolment import Enrolment
from registry.model.parse import parse_as, render
from registry.model.signature import BadSignature, verify
from registry.store.memory import MemoryStore
from registry.store.signed import unsigned
from tests.fakes.signers import MeshKeys, enrolment
from tests.registry.ca.joining import join, new_token
from tests.registry.ca.material import START, TRUST_DOMAIN, SetClock

PLACE = "enrolments/web-1"


async def value_at(store: MemoryStore, place: str = PLACE) -> bytes:
    item = await store.get(place)
    assert item is not None
    return item.value


@pytest.fixture
async def resigner(
    store: MemoryStore, authority: Authority, registrar: Registrar, clock: SetClock
) -> Resigner:
    """Give the resigner of a mesh that web-1 has joined."""
    await join(registrar, await new_token(registrar))
    return Resigner(store=store, authority=authority, clock=clock)


async def rotate(store: MemoryStore, authority: Authority, clock: SetClock) -> None:
    """Let another intermediate issue."""
    rotator = Rotator(store=store, authority=authority, clock=clock)
    before = authority.issuing.fingerprint
    await rotator.start_intermediate()
    while authority.issuing.fingerprint == before:
        await rotator.advance(force=True)


async def test_nothing_to_do(resigner: Resigner, store: MemoryStore) -> None:
    """While the key that issues is the one that signed, nothing is written."""
    before = await store.list("")
    assert await resigner.run_once() == 0
    assert await store.list("") == before


async def test_after_a_rotation(
    resigner: Resigner, store: MemoryStore, authority: Authority, clock: SetClock
) -> None:
    """After a rotation everything is signed by the key that issues then, once."""
    await rotate(store, authority, clock)
    assert await resigner.run_once() == 1
    assert verify(PLACE, await value_at(store))[0] == authority.issuing.certificate
    assert await resigner.run_once() == 0


async def test_written_late(
    resigner: Resigner, store: MemoryStore, authority: Authority, clock: SetClock
) -> None:
    """What a replica signs with the old key after that is found the next time that it is looked for."""
    old = authority.issuing.resource_signer
    await rotate(store, authority, clock)
    await resigner.run_once()
    await store.put(PLACE, old.sign(PLACE, await value_at(store)))
    assert await resigner.run_once() == 0
    assert await resigner.run_once(again=True) == 1


async def test_only_what_holds(
    resigner: Resigner, store: MemoryStore, authority: Authority, clock: SetClock
) -> None:
    """What somebody else wrote is not made good by a rotation."""
    stranger = MeshKeys(TRUST_DOMAIN, now=START)
    forged = {
        "enrolments/evil-1": render(enrolment("evil-1")),
        "enrolments/evil-2": stranger.enrolment("evil-2", "web"),
    }
    for place, value in forged.items():
        await store.put(place, value)
    await rotate(store, authority, clock)
    await resigner.run_once()
    assert {place: await value_at(store, place) for place in forged} == forged


async def test_adopted(resigner: Resigner, store: MemoryStore, authority: Authority) -> None:
    """What an older registry wrote unsigned is signed as it stands; what is signed badly is not."""
    plain = render(unsigned(parse_as(Enrolment, await value_at(store), where=PLACE)))
    await store.put(PLACE, plain)
    await store.put("enrolments/evil-1", MeshKeys(now=START).enrolment("evil-1", "web"))
    await adopt(store, authority.issuing.resource_signer)
    assert verify(PLACE, await value_at(store))[0] == authority.issuing.certificate
    assert verify("enrolments/evil-1", await value_at(store, "enrolments/evil-1"))[0] != (
        authority.issuing.certificate
    )


async def test_not_adopted(store: MemoryStore, authority: Authority) -> None:
    """What does not parse is left as it is."""
    await store.put(PLACE, b"nonsense: [")
    await adopt(store, authority.issuing.resource_signer)
    with pytest.raises(BadSignature):
        verify(PLACE, await value_at(store))
