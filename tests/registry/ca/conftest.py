import pytest

from registry.ca.authority import Authority
from registry.ca.certifying import Certifier
from registry.ca.enrolment import Registrar
from registry.ca.nodes import NodeEditor
from registry.store.memory import MemoryStore
from tests.registry.ca.material import SetClock, found_authority


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def authority(store: MemoryStore, clock: SetClock) -> Authority:
    return await found_authority(store, clock)


@pytest.fixture
async def registrar(store: MemoryStore, authority: Authority, clock: SetClock) -> Registrar:
    return Registrar(store=store, authority=authority, clock=clock)


@pytest.fixture
async def certifier(store: MemoryStore, authority: Authority, clock: SetClock) -> Certifier:
    return Certifier(store=store, authority=authority, clock=clock)


@pytest.fixture
async def nodes(store: MemoryStore, authority: Authority, clock: SetClock) -> NodeEditor:
    return NodeEditor(store=store, authority=authority, clock=clock)
