"""Statuses and resources where signatures are verified: forged addresses, unsigned edits."""

import trio
from trio.testing import MockClock

from registry.ca.signed_store import SignedStore
from registry.controller import Controller
from registry.model.mesh import Mesh, MeshSpec, PolicySigning
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.model.service import Service, ServicePort, ServiceSpec
from registry.model.status import Status, StatusSpec
from registry.statuses import plan
from registry.store.base import KeyValue, Put
from registry.store.memory import MemoryStore
from tests.fakes.signers import NOON, MeshKeys
from tests.registry.ca.material import SetClock, found_authority
from tests.registry.test_controller import settle

KEYS = MeshKeys()
SIGNATURES = KEYS.signatures()
PLACE = "services/default/web"
STATUS = f"status/{PLACE}"


def service() -> Service:
    return Service(
        api_version=NODEMESH,
        kind="Service",
        metadata=Metadata(name="web"),
        spec=ServiceSpec(ports=(ServicePort(port=80),), selector={"app": "web"}),
    )


def mesh(signing: PolicySigning) -> Mesh:
    return Mesh(
        api_version=NODEMESH,
        kind="Mesh",
        metadata=Metadata(name="mesh", namespace=ROOT_NAMESPACE),
        spec=MeshSpec(policy_signing=signing),
    )


def objection(item: KeyValue) -> str:
    found = SIGNATURES._signer(item.key, item.value)
    return str(found) if isinstance(found, ValueError) else ""


def planned(**values: bytes) -> dict[str, StatusSpec]:
    """Plan over values by key; give the statuses that are to be written."""
    state = {key: KeyValue(key, value, 2, 2) for key, value in values.items()}
    writes = plan(state, trust_domain="nodemesh.local", now=NOON, objection=objection)
    return {
        write.key: parse_as(Status, write.value, where=write.key).spec
        for write in writes
        if isinstance(write, Put)
    }


def status(*vips: str) -> Status:
    return Status(
        api_version=NODEMESH,
        kind="Status",
        metadata=Metadata(name="web"),
        spec=StatusSpec(revision=2, accepted=True, vips=vips),
    )


def test_addresses_are_held() -> None:
    """The addresses in a signed status are kept."""
    held = status("240.240.0.7", "fd6d:6573:6800::7")
    assert planned(**{PLACE: render(service()), STATUS: KEYS.signed(STATUS, held)}) == {}


def test_forged_addresses_are_not_held() -> None:
    """A status that somebody else wrote is written anew, with addresses of ours."""
    forged = render(status("240.240.0.7", "fd6d:6573:6800::7"))
    (written,) = planned(**{PLACE: render(service()), STATUS: forged}).values()
    assert "240.240.0.7" not in written.vips
    assert len(written.vips) == 2


def test_unsigned_edit() -> None:
    """Where policySigning is required an unsigned edit is rejected, and a signed one accepted."""
    signed_mesh = KEYS.signed("mesh", mesh(PolicySigning.REQUIRED))
    by_hand = planned(mesh=signed_mesh, **{PLACE: render(service())})[STATUS]
    assert (by_hand.accepted, by_hand.reasons) == (False, ("is not signed",))
    assert planned(mesh=signed_mesh, **{PLACE: KEYS.signed(PLACE, service())})[STATUS].accepted


def test_signing_off() -> None:
    """Where it is off nobody asks."""
    assert planned(mesh=render(mesh(PolicySigning.OFF)), **{PLACE: render(service())})[STATUS].accepted


async def test_the_controller_signs(autojump_clock: MockClock) -> None:
    """What the controller writes is signed by the authority, and it takes its own word for it."""
    store, clock = MemoryStore(), SetClock(NOON)
    authority = await found_authority(store, clock)
    signed = SignedStore(store=store, authority=authority, clock=clock)
    await store.put(PLACE, render(service()))
    controller = Controller(store=store, trust_domain=authority.trust_domain, replica="a", signed=signed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(controller.run)
        await settle()
        item = await store.get(STATUS)
        assert item is not None
        assert signed.objection(item) == ""
        await settle()
        assert await store.get(STATUS) == item
        nursery.cancel_scope.cancel()
