"""Limits at the door: connections that are too many, and bytes that must wait."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission, Call, Refusal
from node_proxy.dataplane.inbound import Inbound, InboundPeer
from node_proxy.dataplane.limiter import Limiter
from node_proxy.dataplane.plaintext import Plaintext
from node_proxy.snapshot import Snapshot
from node_proxy.tunnel.events import StreamRequested
from registry.model.identity import Identity, NodeIdentity
from registry.model.mesh import DefaultAuthorization
from registry.model.peer_authentication import MtlsMode
from tests.fakes.context import ADDRESS, scene, snapshot
from tests.fakes.eventually import eventually
from tests.fakes.guards import guard_of
from tests.fakes.relay_tunnel import RelayTunnel
from tests.fakes.tcp import Reader, tcp_pair
from tests.integration.certificates import TRUST_DOMAIN
from tests.integration.snapshots import local
from tests.node_proxy.dataplane.test_inbound import API, PEER, WEB
from tests.node_proxy.dataplane.test_limiter import policy

HERE = "127.0.0.1"
RATE = 1_000_000
BURST = RATE // 20


@pytest.fixture
def workload() -> Iterator[socket.socket]:
    """Give the listening socket of a workload on loopback."""
    with socket.create_server((HERE, 0)) as sock:
        sock.settimeout(10)
        yield sock


def state(port: int, **spec: object) -> Snapshot:
    """Give a state with the workload api at `port`, under a policy that says this."""
    api = msgspec.structs.replace(local("api", port), services=("default/api",))
    made = snapshot(workloads=(api,), default=DefaultAuthorization.ALLOW)
    return msgspec.structs.replace(
        made, mtls_mode=MtlsMode.PERMISSIVE, backend_policies=(policy("api", **spec),)
    )


class Door:
    """Both ways in, with the clock standing still, so that no turn comes."""

    def __init__(self, enforced: Snapshot, nursery: trio.Nursery, stack: ExitStack) -> None:
        self.stage = scene(enforced)
        context = self.stage.context
        self.admission = Admission(context, Limiter(context))
        guard = guard_of(context, self.admission)
        inbound = Inbound(context, nursery, self.admission, guard)
        self.peer = InboundPeer(inbound, PEER, API, Call(source_ip="10.77.0.2"))
        self.called: tuple[str, int] | None = None
        self.plaintext = Plaintext(context, nursery, self.admission, guard, called=lambda _sock: self.called)
        self._stack = stack

    def through_a_tunnel(self, port: int) -> RelayTunnel:
        """Come in by CONNECT."""
        tunnel = RelayTunnel()
        self.peer.on_request(tunnel.as_tunnel(), StreamRequested(1, f"{ADDRESS}:{port}", ()))
        return tunnel

    def past_the_mesh(self, port: int) -> Reader:
        """Come in as plaintext; gives the caller's end."""
        near, caller = tcp_pair()
        self._stack.callback(caller.close)
        self._stack.callback(near.close)
        self.called = (HERE, port)
        self.plaintext.accepted(near)
        return Reader(caller)


@asynccontextmanager
async def door(enforced: Snapshot) -> AsyncIterator[Door]:
    """Give the ways into a host whose reactor runs."""
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            opened = Door(enforced, nursery, stack)
            nursery.start_soon(opened.stage.context.reactor.run)
            yield opened
            opened.stage.enforce(snapshot())
            opened.admission.streams.judge_again()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_a_tunnels_peer_is_told(workload: socket.socket) -> None:
    """A stream too many gets 429 and the reason, is counted and logged; the workload never sees it."""
    port: int = workload.getsockname()[1]
    async with door(state(port, connectionRates=[{"connections": 2, "per": "1h"}])) as at:
        tunnels = [at.through_a_tunnel(port) for _ in range(3)]
        await eventually(lambda: sum(len(each.accepted) for each in tunnels) == 2)
        ((_, status, reason),) = tunnels[2].refused
        assert status == 429
        assert reason.startswith("rate_limited; id=")
        assert at.stage.counted(telemetry.STREAMS_REFUSED, reason="rate_limited") == 1
        (line,) = at.stage.logged("stream refused")
        assert (line["source"], line["reason"]) == (str(WEB), "rate_limited")
        for _ in range(2):
            workload.accept()[0].close()
        workload.setblocking(False)
        with pytest.raises(BlockingIOError):
            workload.accept()


async def test_plaintext_is_reset(workload: socket.socket) -> None:
    """A caller past the mesh is reset when it is one too many."""
    port: int = workload.getsockname()[1]
    async with door(state(port, connectionRates=[{"connections": 1, "per": "1h"}])) as at:
        assert at.past_the_mesh(port).ended() == ""
        assert at.past_the_mesh(port).ended() == "reset"


def test_callers_without_identity_count_as_one(workload: socket.socket) -> None:
    """A node that speaks for unknown processes has no count of its own beside those past the mesh."""
    port: int = workload.getsockname()[1]
    stage = scene(state(port, connectionRates=[{"connections": 1, "per": "1h", "key": {"type": "Caller"}}]))
    admission = Admission(stage.context, Limiter(stage.context))
    sources: list[Identity | None] = [
        WEB,
        NodeIdentity(TRUST_DOMAIN, "web-1"),
        NodeIdentity(TRUST_DOMAIN, "web-2"),
        None,
        WEB,
    ]
    verdicts = [admission.admit(source=source, port=port, serving=None) for source in sources]
    refused = [each.status if isinstance(each, Refusal) else 0 for each in verdicts]
    assert refused == [0, 0, 429, 429, 429]


async def test_the_bytes_of_a_stream_wait(workload: socket.socket) -> None:
    """A stream of a tunnel under a limit of bandwidth carries no more than that, both ways."""
    port: int = workload.getsockname()[1]
    async with door(state(port, bandwidths=[{"upload": RATE, "download": RATE}])) as at:
        tunnel = at.through_a_tunnel(port)
        await eventually(lambda: tunnel.accepted)
        with workload.accept()[0] as served:
            served.setblocking(False)
            served.send(bytes(2 * BURST))
            await eventually(lambda: len(tunnel.sent) == BURST)
            for _ in range(2):
                tunnel.handlers[1].on_data(memoryview(bytes(BURST)))
            reader = Reader(served)
            await eventually(lambda: len(reader.read()) == BURST)
            await trio.sleep(0.05)
            assert (len(tunnel.sent), len(reader.read())) == (BURST, BURST)


async def test_the_bytes_of_plaintext_wait(workload: socket.socket) -> None:
    """What comes past the mesh has no more bandwidth than what comes through it."""
    port: int = workload.getsockname()[1]
    async with door(state(port, bandwidths=[{"download": RATE}])) as at:
        caller = at.past_the_mesh(port)
        with workload.accept()[0] as served:
            served.setblocking(False)
            served.send(bytes(2 * BURST))
            await eventually(lambda: len(caller.read()) == BURST)
            await trio.sleep(0.05)
            assert len(caller.read()) == BURST
