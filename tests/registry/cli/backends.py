"""Two registries that the same tests run against: the fake, and the real application over a memory store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import httpx
from structlog.testing import capture_logs

from registry.api.app import create_app
from registry.api.auth import new_administrator
from registry.ca.authority import Authority, found_with
from registry.ca.keyring import IssuingKey, put_root
from registry.ca.sealing import KeyFile
from registry.clock import utc_now
from registry.store.memory import MemoryStore
from tests.fakes.asgi import AsgiTransport, TrioThread, trio_thread
from tests.fakes.registry_api import TOKEN, FakeRegistry
from tests.fakes.signers import MeshKeys


class Backend(Protocol):
    """A registry to run meshctl against, and its store as etcdctl sees it."""

    @property
    def token(self) -> str:
        """The administrator's token."""

    @property
    def transport(self) -> httpx.BaseTransport:
        """The way to its API."""

    def put(self, key: str, value: bytes) -> int:
        """Write unjudged; gives the revision."""

    def value(self, key: str) -> bytes | None:
        """Read a stored value."""


class FakeBackend:
    """The fake registry."""

    token = TOKEN

    def __init__(self) -> None:
        self._registry = FakeRegistry()

    @property
    def transport(self) -> httpx.BaseTransport:
        """Give the fake itself."""
        return self._registry

    def put(self, key: str, value: bytes) -> int:
        """Write into its dict."""
        return self._registry.put(key, value)

    def value(self, key: str) -> bytes | None:
        """Read from its dict."""
        return self._registry.stored.get(key, (0, None))[1]


class RealBackend:
    """The registry's own application."""

    def __init__(
        self,
        *,
        loop: TrioThread,
        store: MemoryStore,
        token: str,
        transport: httpx.BaseTransport,
        mesh: MeshKeys,
    ) -> None:
        self._loop = loop
        self._store = store
        self._mesh = mesh
        self.token = token
        self.transport = transport

    def put(self, key: str, value: bytes) -> int:
        """Write into the memory store."""
        return self._loop.run(self._store.put, key, value)

    def put_signed(self, key: str, value: bytes) -> int:
        """Write what a node or the authority has signed."""
        folder, _, rest = key.partition("/")
        signer = self._mesh.node(rest.partition("/")[0]) if folder == "nodes" else self._mesh.authority
        return self.put(key, signer.sign(key, value))

    def value(self, key: str) -> bytes | None:
        """Read from the memory store."""
        item = self._loop.run(self._store.get, key)
        return item.value if item else None


@contextmanager
def open_fake() -> Iterator[FakeBackend]:
    """Give a fake registry."""
    yield FakeBackend()


@contextmanager
def open_real() -> Iterator[RealBackend]:
    """Found a mesh in a memory store and give the application over it."""
    store, kek = MemoryStore(), KeyFile(bytes(32))
    mesh = MeshKeys("nodemesh.local", now=utc_now())
    founding = found_with(
        mesh.root.certificate,
        IssuingKey(mesh.issuing),
        trust_domain=mesh.trust_domain,
        kek=kek,
        now=utc_now(),
    )
    token, administrator = new_administrator("admin", now=utc_now())

    async def load() -> Authority:
        writes = [*founding.writes, put_root(mesh.root, kek=kek), founding.sign(administrator)]
        await store.commit(founding.conditions, writes)
        return await Authority.load(store, kek=kek, clock=utc_now)

    # The command shares our standard output, where the registry would log.
    with capture_logs(), trio_thread() as loop:
        app = create_app(store=store, authority=loop.run(load), clock=utc_now)
        transport = AsgiTransport(app, loop)
        yield RealBackend(loop=loop, store=store, token=token, transport=transport, mesh=mesh)


class Wire(httpx.BaseTransport):
    """Notes what is asked, and lets something happen just before the first edit arrives."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner
        self.asked: list[str] = []
        self.before_put: Callable[[], object] | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Hand a request on."""
        self.asked.append(f"{request.method} {request.url.path}")
        if request.method == "PUT" and self.before_put is not None:
            happening, self.before_put = self.before_put, None
            happening()
        return self._inner.handle_request(request)
