"""Calls from one workload of this host to another: no tunnel, the same admission."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.local_relay import LocalRelay
from node_proxy.dataplane.open_streams import OpenStream
from node_proxy.dataplane.outbound_connection import Caller, OutboundConnection
from node_proxy.dataplane.socket_side import SocketSide
from node_proxy.dataplane.tables import Route
from node_proxy.proxy_header import proxy_header
from node_proxy.snapshot import Endpoint, Snapshot
from registry.model.authorization import Action
from registry.model.service import PortProtocol
from tests.fakes.context import ADDRESS, NODE, scene, snapshot
from tests.fakes.eventually import eventually
from tests.fakes.garbage import alive, counting_alone
from tests.fakes.outbound_pool import OutboundPool
from tests.fakes.relay_tunnel import RelayTunnel
from tests.fakes.tcp import Reader, reset, tcp_pair
from tests.integration.certificates import server_name, spiffe
from tests.integration.snapshots import endpoint, local, policy
from tests.node_proxy.dataplane.source import make_outbound

WEB = Caller.of(spiffe("web"))
API = spiffe("api")
NO_WEB = policy("no-web", Action.DENY, principals=(WEB.identity.principal,))


@pytest.fixture
def workload() -> Iterator[socket.socket]:
    """Give the listening socket of a workload of this host."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(10)
        yield sock


class House:
    """An outbound side that calls within its host."""

    def __init__(self, state: Snapshot, nursery: trio.Nursery, stack: ExitStack) -> None:
        self.stage = scene(state)
        self.admission = Admission(self.stage.context)
        self.outbound = make_outbound(self.stage.context, nursery, self.admission)
        self.pool = OutboundPool()
        self.outbound.shared.pool = self.pool.as_pool()
        self._stack = stack

    def call(self, *to: Endpoint) -> Reader:
        """Begin a connection; gives the caller's end."""
        near, caller = tcp_pair()
        self._stack.callback(near.close)
        self._stack.callback(caller.close)
        self.outbound.connected(near, Route("default/api", 80, to), WEB, "default/api:80")
        return Reader(caller)

    def change(self, state: Snapshot) -> None:
        """Put another state in force, as a worker does."""
        self.stage.enforce(state)
        self.admission.streams.judge_again()

    def assert_balanced(self) -> None:
        """Check that nothing is left of any connection."""
        assert self.outbound.shared.balancer.loaded == 0
        assert self.outbound.open_connections == 0
        assert self.admission.streams._open == set()
        assert self.stage.counted(telemetry.CONNECTIONS_OPEN) == 0


@asynccontextmanager
async def house(state: Snapshot) -> AsyncIterator[House]:
    """Give an outbound side whose reactor runs."""
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            inside = House(state, nursery, stack)
            nursery.start_soon(inside.stage.context.reactor.run)
            yield inside
            inside.change(snapshot())
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


def here(port: int, *, identity: str = API) -> Endpoint:
    """Give an endpoint of this host."""
    return endpoint(NODE, ADDRESS, 15008, port, identity=identity)


def port_of(sock: socket.socket) -> int:
    """Give the port of a listening socket."""
    port: int = sock.getsockname()[1]
    return port


async def test_bytes_flow_without_a_tunnel(workload: socket.socket) -> None:
    """A workload of the same host is dialled directly, and the call is logged like any other."""
    port = port_of(workload)
    async with house(snapshot(workloads=(local("api", port),))) as inside:
        caller = inside.call(here(port))
        caller.sock.send(b"question")
        await trio.testing.wait_all_tasks_blocked()
        served, _ = workload.accept()
        with served:
            assert served.recv(100) == b"question"
            served.send(b"answer")
            await eventually(lambda: caller.read() == b"answer")
        caller.sock.shutdown(socket.SHUT_WR)
        await eventually(lambda: inside.stage.logged("connection closed"))
        (line,) = inside.stage.logged("connection closed")
        assert (line["bytes_sent"], line["bytes_received"], line["outcome"]) == (8, 6, "done")
        assert inside.pool.asked == []
        inside.assert_balanced()


async def test_the_workload_is_told(workload: socket.socket) -> None:
    """A caller on loopback has the address of its host for those who ask, and its own identity."""
    port = port_of(workload)
    wishing = msgspec.structs.replace(local("api", port), proxy_protocol=True)
    async with house(snapshot(workloads=(wishing,))) as inside:
        inside.call(here(port))
        await trio.testing.wait_all_tasks_blocked()
        served, _ = workload.accept()
        with served:
            assert served.recv(500) == proxy_header(
                source=(ADDRESS, 0), destination=(ADDRESS, port), spiffe_id=WEB.text
            )


@pytest.mark.parametrize("end", ["done", "broken", "cut"])
async def test_freed(workload: socket.socket, end: str) -> None:
    """However a call ends, reference counting frees all of it: thousands at once leave no garbage."""
    parts = (OutboundConnection, LocalRelay, SocketSide, OpenStream)
    port = port_of(workload)
    with counting_alone():
        async with house(snapshot(workloads=(local("api", port),))) as inside:
            caller = inside.call(here(port))
            await trio.testing.wait_all_tasks_blocked()
            held = ["LocalRelay", "OpenStream", "OutboundConnection", "SocketSide", "SocketSide"]
            assert alive(*parts) == held
            served, _ = workload.accept()
            with served:
                match end:
                    case "done":
                        caller.sock.shutdown(socket.SHUT_WR)
                        served.shutdown(socket.SHUT_WR)
                    case "broken":
                        reset(served)
                    case _:
                        inside.change(snapshot())
                await eventually(lambda: inside.stage.logged("connection closed"))
            await trio.testing.wait_all_tasks_blocked()
            assert alive(*parts) == []


async def test_denied(workload: socket.socket) -> None:
    """The policies hold within the host as well; the workload hears nothing of the attempt."""
    port = port_of(workload)
    async with house(snapshot(workloads=(local("api", port),), policies=(NO_WEB,))) as inside:
        caller = inside.call(here(port))
        assert caller.ended() == "reset"
        lines = inside.stage.logged("stream refused")
        assert [(line["side"], line["reason"]) for line in lines] == [
            ("destination", "denied"),
            ("source", "denied"),
        ]
        assert lines[0]["policy"] == lines[1]["policy"] == "default/no-web"
        assert lines[0]["id"] == lines[1]["id"] != ""
        for side, by in (("destination", "default/no-web"), ("source", "")):
            assert inside.stage.counted(telemetry.DENIALS, side=side, policy=by, source=WEB.text) == 1
        (decided,) = inside.stage.context.decisions.take(0.0)
        assert (decided.ids, decided.source_ip, decided.sni) == (
            (lines[0]["id"],),
            ADDRESS,
            server_name(API),
        )
        workload.setblocking(False)
        with pytest.raises(BlockingIOError):
            workload.accept()
        inside.assert_balanced()


async def test_grace(workload: socket.socket) -> None:
    """A call within the host that a change denies goes on until its grace ends."""
    port = port_of(workload)
    workloads = (local("api", port),)
    async with house(snapshot(workloads=workloads)) as inside:
        caller = inside.call(here(port))
        await eventually(lambda: len(inside.admission.streams._open) == 1)
        served, _ = workload.accept()
        with served:
            served.setblocking(False)
            workload_side = Reader(served)
            state = snapshot(revision=2, workloads=workloads, policies=(NO_WEB,))
            inside.change(msgspec.structs.replace(state, enforcement_grace=60))
            caller.sock.send(b"still")
            await eventually(lambda: workload_side.read() == b"still")
            inside.change(state)
            await eventually(lambda: caller.ended() == "reset")
        (denied,) = inside.stage.logged("stream denied")
        (cut,) = inside.stage.logged("stream cut")
        assert denied["id"] == cut["id"]


async def test_workload_that_has_moved() -> None:
    """An endpoint that this host no longer has is tried elsewhere."""
    elsewhere = endpoint("api-1", "10.77.0.2", 15008, 8080, identity=API)
    async with house(snapshot()) as inside:
        inside.pool.open[elsewhere.address] = RelayTunnel()
        inside.call(here(8080), elsewhere)
        inside.call(here(8080), elsewhere)
        assert inside.pool.open[elsewhere.address].opened == ["10.77.0.2:8080"] * 2


async def test_port_of_another_identity(workload: socket.socket) -> None:
    """A port that belongs to another identity than the service lists is not called."""
    port = port_of(workload)
    async with house(snapshot(workloads=(local("other", port),))) as inside:
        caller = inside.call(here(port))
        assert caller.ended() == "reset"
        assert inside.stage.logged("stream refused")[0]["reason"] == "no_workload"
        inside.assert_balanced()


async def test_nobody_listens(workload: socket.socket) -> None:
    """A workload that does not answer is ejected, and the caller reset when there is no other."""
    port = port_of(workload)
    workload.close()
    async with house(snapshot(workloads=(local("api", port),))) as inside:
        caller = inside.call(here(port))
        await eventually(caller.ended)
        assert caller.ending == "reset"
        assert inside.outbound.shared.balancer.ejected(here(port))
        inside.assert_balanced()


async def test_policy_that_changes_later(workload: socket.socket) -> None:
    """A DENY that comes while bytes flow cuts both ends."""
    port = port_of(workload)
    workloads = (local("api", port),)
    async with house(snapshot(workloads=workloads)) as inside:
        caller = inside.call(here(port))
        await trio.testing.wait_all_tasks_blocked()
        served, _ = workload.accept()
        with served:
            inside.change(snapshot(revision=2, workloads=workloads, policies=(NO_WEB,)))
            assert (caller.ended(), Reader(served).ended()) == ("reset", "reset")
        assert inside.stage.logged("connection closed")[0]["outcome"] == "policy: default/no-web"
        inside.assert_balanced()


async def test_policy_that_changes_during_the_dial(workload: socket.socket) -> None:
    """A DENY that comes during the dial is obeyed before a byte flows."""
    port = port_of(workload)
    workloads = (local("api", port),)
    async with house(snapshot(workloads=workloads)) as inside:
        caller = inside.call(here(port))
        caller.sock.send(b"question")
        inside.change(snapshot(revision=2, workloads=workloads, policies=(NO_WEB,)))
        await eventually(caller.ended)
        assert caller.ending == "reset"
        served, _ = workload.accept()
        with served:
            assert served.recv(100) == b""
        inside.assert_balanced()


async def test_change_that_matters_not(workload: socket.socket) -> None:
    """A change during the dial that still allows the call only costs another dial."""
    port = port_of(workload)
    workloads = (local("api", port),)
    async with house(snapshot(workloads=workloads)) as inside:
        caller = inside.call(here(port))
        inside.change(snapshot(revision=2, workloads=workloads))
        caller.sock.send(b"question")
        await eventually(lambda: len(inside.admission.streams._open) == 1)
        assert inside.outbound.open_connections == 1


async def test_bytes_do_not_pass_by_the_rules_of_requests(workload: socket.socket) -> None:
    """A connection that was routed as TCP is not relayed to a port whose requests are judged one by one."""
    port = port_of(workload)
    http = local("api", port, protocol=PortProtocol.HTTP)
    async with house(snapshot(workloads=(http,))) as inside:
        caller = inside.call(here(port))
        await eventually(lambda: inside.stage.logged("stream refused"))
        assert caller.ended() == "reset"
        workload.setblocking(False)
        with pytest.raises(BlockingIOError):
            workload.accept()
        inside.assert_balanced()
