"""A registry and a node over an etcd that is locked down: TLS, client certificates, users and roles."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import trio

from node_proxy.agent.credentials import Enrolment, Held, Keyring
from node_proxy.agent.discovery import Discovery
from node_proxy.agent.enrolment import join, request_etcd_certificate
from node_proxy.agent.etcd_certificate import EtcdCertificateFile, EtcdCertificateKeeper, EtcdCredential
from node_proxy.agent.record_signing import RecordSigner
from node_proxy.agent.registration import Registration
from node_proxy.agent.state import MeshState
from node_proxy.agent.vouching import Vouching
from node_proxy.certificate import read_roots
from registry.ca.authority import Authority, found_with
from registry.ca.enrolment import Registrar
from registry.ca.keyring import IssuingKey
from registry.ca.nodes import NodeEditor
from registry.ca.sealing import KeyFile
from registry.clock import utc_now
from registry.errors import StoreForbidden
from registry.listening import Address, listen
from registry.model.workload import Node, Workload
from registry.serving import serve
from registry.store.config import EtcdConfig
from registry.store.etcd import EtcdStore, open_etcd
from registry.store.signed import Signatures
from tests.contract.locked import LockedEtcd, open_locked_etcd
from tests.node_proxy.agent.documents import node as node_record
from tests.node_proxy.agent.documents import workload

KEK = KeyFile(b"k" * 32)
RECORD = "nodes/web-1/record"
WORKLOAD = "nodes/web-1/workloads/default/api"


@dataclass
class Control:
    """The registry, and etcd as it sees it."""

    url: str
    store: EtcdStore
    registrar: Registrar
    nodes: NodeEditor

    async def token(self, node: str, **more: bool) -> str:
        """Make a token for a node that may be default/api."""
        made = await self.registrar.create_token(
            pattern=node, identities=["default/api"], ttl=timedelta(minutes=5), uses=1, **more
        )
        return str(made.text)


class Joined:
    """A node that has joined: its credentials, and the way to etcd that they open."""

    def __init__(self, control: Control, folder: Path, enrolment: Enrolment, held: Held) -> None:
        self.control = control
        self.enrolment = enrolment
        self.held = held
        self.file = EtcdCertificateFile(folder)
        self.state = MeshState(
            trust_domain=enrolment.trust_domain,
            trust=lambda: enrolment,
            vouching=Vouching(
                Signatures(trust_domain=enrolment.trust_domain, roots=read_roots(enrolment.roots)), utc_now
            ),
        )
        self.changed = trio.Event()

    async def obtain(self) -> EtcdCredential:
        """Ask for another etcd certificate."""
        return await request_etcd_certificate(
            registry=self.control.url, roots=self.enrolment.roots, node=self.held, now=utc_now()
        )

    async def until(self, keys: set[str]) -> None:
        """Wait until these records and workloads are in force."""
        with trio.fail_after(20):
            while {key for kind in (Node, Workload) for key, _ in self.state.of(kind)} != keys:
                await self.changed.wait()
                self.changed = trio.Event()

    @asynccontextmanager
    async def running(self, store: EtcdStore) -> AsyncIterator[None]:
        """Be registered and follow the mesh, as an agent is and does."""
        name = self.enrolment.node
        records = {
            f"nodes/{name}/record": node_record(name),
            f"nodes/{name}/workloads/default/api": workload(on=name),
        }
        registration = Registration(store, lambda: records, dict, rendered=RecordSigner(lambda: self.held))
        discovery = Discovery(store, self.state, lambda: self.changed.set())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registration.serve)
            nursery.start_soon(discovery.follow)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LockedEtcd]:
    """Run an etcd that is locked down."""
    with open_locked_etcd(tmp_path_factory.mktemp("locked")) as etcd:
        yield etcd


@pytest.fixture
async def control(etcd: LockedEtcd) -> AsyncIterator[Control]:
    """Serve a registry whose etcd this is, founded on the root that etcd trusts."""
    mesh = etcd.mesh
    founding = found_with(
        mesh.root.certificate,
        IssuingKey(mesh.issuing),
        trust_domain=mesh.trust_domain,
        kek=KEK,
        now=utc_now(),
    )
    async with open_etcd(etcd.root) as store, trio.open_nursery() as nursery:
        await store.commit(founding.conditions, founding.writes)
        authority = await Authority.load(store, kek=KEK, clock=utc_now)
        listener = listen(Address("127.0.0.1", 0))
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        stop = trio.Event()

        async def run() -> None:
            await serve(
                store=store,
                authority=authority,
                listener=listener,
                names=(),
                clock=utc_now,
                stop=stop,
                accounts=store.accounts,
            )

        nursery.start_soon(run)
        yield Control(
            url,
            store,
            Registrar(store=store, authority=authority, clock=utc_now, accounts=store.accounts),
            NodeEditor(store=store, authority=authority, clock=utc_now, accounts=store.accounts),
        )
        nursery.cancel_scope.cancel()


@pytest.fixture
async def web_1(control: Control, tmp_path: Path) -> Joined:
    """Let web-1 join."""
    return await let_join(control, tmp_path, "web-1")


async def let_join(control: Control, folder: Path, name: str) -> Joined:
    enrolment, held, credential = await join(registry=control.url, token=await control.token(name), node=name)
    assert credential is not None
    joined = Joined(control, folder, enrolment, held)
    joined.file.save(credential)
    Keyring(folder).save(held)
    return joined


async def test_joined_node_registers_and_follows(etcd: LockedEtcd, web_1: Joined) -> None:
    """What joining gave is all that a node needs: it registers, and sees itself as others do."""
    async with open_etcd(web_1.file.configured(anyone(etcd))) as store, web_1.running(store):
        await web_1.until({RECORD, WORKLOAD})
        assert web_1.state.rejections() == ()
        for forbidden in ("ca/keys/x", "tokens/x", "administrators/admin"):
            with pytest.raises(StoreForbidden):
                await store.get(forbidden)


async def test_without_the_certificate(etcd: LockedEtcd, web_1: Joined, tmp_path: Path) -> None:
    """Without its etcd certificate a node is nobody; with one that it asks for later it is itself."""
    web_1.file.path.unlink()
    bare = anyone(etcd)
    assert web_1.file.configured(bare) == bare
    async with open_etcd(replace(bare, timeout=1.0)) as store, web_1.running(store):

        async def connect() -> None:
            await store.reconnect(replace(web_1.file.configured(bare), timeout=1.0))

        keeper = EtcdCertificateKeeper(
            web_1.file,
            obtain=web_1.obtain,
            connect=connect,
            now=utc_now,
            rng=random.Random(1),  # noqa: S311
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.keep_fresh)
            await web_1.until({RECORD, WORKLOAD})
            nursery.cancel_scope.cancel()


async def test_forbidden_identity(etcd: LockedEtcd, web_1: Joined, control: Control) -> None:
    """An identity taken from a node takes its workload out of service on every node that watches."""
    async with open_etcd(web_1.file.configured(anyone(etcd))) as store, web_1.running(store):
        await web_1.until({RECORD, WORKLOAD})
        await control.nodes.forbid("web-1", ["default/api"])
        await web_1.until({RECORD})


async def test_revoked_node(
    etcd: LockedEtcd, web_1: Joined, control: Control, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A revoked node is shut out of etcd, and its records count for nobody from then on."""
    other = await let_join(control, tmp_path_factory.mktemp("other"), "api-1")
    theirs = {"nodes/api-1/record", "nodes/api-1/workloads/default/api"}
    async with (
        open_etcd(web_1.file.configured(anyone(etcd))) as store,
        open_etcd(other.file.configured(anyone(etcd))) as other_store,
        other.running(other_store),
    ):
        async with web_1.running(store):
            await other.until({RECORD, WORKLOAD} | theirs)
            await control.nodes.revoke("web-1", reason="stolen")
            await other.until(theirs)
        with pytest.raises(StoreForbidden):
            await store.put(RECORD, b"{}")


async def test_join_that_waits(etcd: LockedEtcd, control: Control, autojump_polls: None) -> None:
    """A node that must be approved has no etcd user before, and all that it needs after."""
    token = await control.token("late-1", require_approval=True)
    waiting = trio.Event()
    found = []
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            found.append(await join(registry=control.url, token=token, node="late-1", on_waiting=waiting.set))

        nursery.start_soon(wait)
        await waiting.wait()
        assert "node:late-1" not in await control.store.accounts._users()
        await control.nodes.approve("late-1")
    (joined,) = found
    assert joined.etcd is not None
    assert joined.enrolment.node == "late-1"
    assert "node:late-1" in await control.store.accounts._users()


@pytest.fixture
def autojump_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask more often than people would."""
    monkeypatch.setattr("node_proxy.agent.enrolment.APPROVAL_POLL", 0.1)


def anyone(etcd: LockedEtcd) -> EtcdConfig:
    """How proxy.toml says to reach etcd: by TLS, and not as whom."""
    return replace(etcd.root, cert=None, key=None)
