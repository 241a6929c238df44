"""A worker's router over real sockets, for what leaves the mesh."""

import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager

import msgspec
import trio
import trio.testing

from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.direct import Direct
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.passthrough import Passage
from node_proxy.dataplane.router import MeshNames, Router
from node_proxy.dataplane.way import PLAIN, Way
from node_proxy.snapshot import ExternalPortView, ExternalServiceView, Snapshot
from registry.model.service import PortProtocol
from tests.fakes.context import scene, snapshot
from tests.fakes.tcp import Reader, tcp_pair
from tests.integration.certificates import spiffe
from tests.node_proxy.dataplane.source import make_outbound

WEB = Caller.of(spiffe("web"))
API = Caller.of(spiffe("api"))
HOST = "api.example.com"


def external(
    *,
    port: int = 80,
    target: int,
    addresses: tuple[str, ...] = ("127.0.0.1",),
    server_name: str | None = None,
    roots_pem: str = "",
    allowed: tuple[str, ...] | None = None,
    protocol: PortProtocol = PortProtocol.TCP,
    name: str = "default/ext",
    hosts: tuple[str, ...] = (HOST,),
    vips: tuple[str, ...] = ("240.240.0.9", "fd6d:6573:6800::9"),
) -> ExternalServiceView:
    """Give an external service of one port."""
    return ExternalServiceView(
        name=name,
        hosts=hosts,
        vips=vips,
        ports=(ExternalPortView(port=port, target=target, protocol=protocol),),
        addresses=addresses,
        server_name=server_name,
        roots_pem=roots_pem,
        allowed=allowed,
    )


def outside(*externals: ExternalServiceView, grace: int = 0, revision: int = 1) -> Snapshot:
    """Give a mesh of nothing but external services."""
    return msgspec.structs.replace(
        snapshot(revision=revision),
        externals=externals,
        vip_ranges=("240.240.0.0/16", "fd6d:6573:6800::/64"),
        enforcement_grace=grace,
    )


class Exit:
    """A router whose connections are real."""

    def __init__(
        self,
        state: Snapshot,
        nursery: trio.Nursery,
        stack: ExitStack,
        own_ports: frozenset[int] | None,
        resolved: Sequence[str],
    ) -> None:
        self.stage = scene(state, clock=trio.current_time)
        context = self.stage.context
        self.direct = Direct(context, nursery)
        self.outbound = make_outbound(context, nursery)
        self.router = Router(
            context,
            outbound=self.outbound,
            direct=self.direct,
            names=MeshNames("mesh", "default"),
            passage=None if own_ports is None else Passage(context, own_ports, lambda _: list(resolved)),
        )
        self._stack = stack

    def call(self, destination: Destination, caller: Caller = WEB, way: Way = PLAIN) -> Reader:
        """Begin a connection; gives the caller's end."""
        near, far = tcp_pair()
        self._stack.callback(near.close)
        self._stack.callback(far.close)
        self.router.connected(near, self.router.find(destination), caller, str(destination), way)
        return Reader(far)

    def change(self, state: Snapshot) -> None:
        """Put another state in force, as a worker does."""
        self.stage.enforce(state)
        self.direct.judge_again()

    def refusals(self) -> list[str]:
        """Give the reasons of what was refused."""
        return [line["reason"] for line in self.stage.logged("stream refused")]


@asynccontextmanager
async def leaving(
    state: Snapshot, own_ports: frozenset[int] | None = None, *, resolved: Sequence[str] = ()
) -> AsyncIterator[Exit]:
    """Give a router whose reactor runs; `own_ports` lets pass what is no service.

    `resolved` is what every name resolves to.
    """
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            made = Exit(state, nursery, stack, own_ports, resolved)
            nursery.start_soon(made.stage.context.reactor.run)
            yield made
            for connection in list(made.direct.relayed):
                relay = connection._relay
                assert relay is not None
                relay.cut("the test ends")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


@contextmanager
def accepted(server: socket.socket) -> Iterator[Reader]:
    """Give the server's end of the connection that waits."""
    sock, _ = server.accept()
    with sock:
        sock.setblocking(False)
        yield Reader(sock)


@contextmanager
def listening(address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Give a listening socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as sock:
        sock.settimeout(10)
        yield sock
