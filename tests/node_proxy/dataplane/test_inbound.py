import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest
import trio
import trio.testing

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission, Call
from node_proxy.dataplane.inbound import MAX_HANDSHAKES, Inbound, InboundPeer
from node_proxy.dataplane.inbound_stream import InboundStream, parse_authority
from node_proxy.dataplane.open_streams import OpenStream
from node_proxy.dataplane.relay import StreamRelay
from node_proxy.dataplane.socket_side import SocketSide
from node_proxy.proxy_header import proxy_header
from node_proxy.snapshot import Snapshot
from node_proxy.tunnel.events import RequestRejected, StreamRequested
from node_proxy.tunnel.http2 import CANCEL
from node_proxy.tunnel.peer import Peer
from registry.model.authorization import Action
from registry.model.identity import WorkloadIdentity
from registry.model.revocation import CertificateFacts
from tests.fakes.context import ADDRESS, Scene, scene, snapshot, tls_contexts
from tests.fakes.eventually import eventually
from tests.fakes.garbage import alive, counting_alone
from tests.fakes.guards import guard_of
from tests.fakes.relay_tunnel import RelayTunnel
from tests.fakes.tcp import Reader, reset, tcp_pair
from tests.integration.certificates import TRUST_DOMAIN, Authority, spiffe
from tests.integration.snapshots import local, policy

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
API = spiffe("api")
STREAM = 1
STREAM_PARTS = (InboundStream, StreamRelay, SocketSide, OpenStream)
# The address of the peer's host.
CALLER = "10.77.0.2"
# What its record says instead, as behind NAT.
RECORDED = "10.99.0.2"
PEER = Peer(
    WEB,
    CertificateFacts(
        identity=str(WEB), node="app-1", serials=(1,), not_before=datetime(2026, 1, 1, tzinfo=UTC)
    ),
)


@pytest.fixture
def workload() -> Iterator[socket.socket]:
    """Give the listening socket of a workload on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(10)
        yield sock


class SlowWorkload:
    """A workload whose queue is full: a dial of it is answered once the queue is emptied."""

    def __init__(self, sock: socket.socket, stack: ExitStack) -> None:
        self.port = port_of(sock)
        self._sock = sock
        self._fillers: set[object] = set()
        in_queue = True
        while in_queue:
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
            # The second call tells whether the first has succeeded, as the proxy's own dial asks it.
            in_queue = filler.connect_ex(sock.getsockname()) == 0
            self._fillers.add(filler.getsockname())

    async def accept(self) -> socket.socket:
        """Empty the queue; give the connection that did not fill it."""
        return await trio.to_thread.run_sync(self._accept)

    def _accept(self) -> socket.socket:
        while True:
            served, peer = self._sock.accept()
            if peer not in self._fillers:
                return served
            served.close()


@pytest.fixture
def slow_workload() -> Iterator[SlowWorkload]:
    """Give a workload that answers late."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock, ExitStack() as stack:
        sock.settimeout(10)
        yield SlowWorkload(sock, stack)


def port_of(sock: socket.socket) -> int:
    """Give the port of a listening socket."""
    port: int = sock.getsockname()[1]
    return port


def inbound_of(stage: Scene, nursery: trio.Nursery) -> Inbound:
    """Give an inbound side."""
    admission = Admission(stage.context)
    return Inbound(stage.context, nursery, admission, guard_of(stage.context, admission))


class Door:
    """An inbound side with one peer, web, whose tunnel is in the test's hand."""

    def __init__(self, stage: Scene, nursery: trio.Nursery) -> None:
        self.stage = stage
        self.inbound = inbound_of(stage, nursery)
        self.admission = self.inbound.admission
        self.peer = InboundPeer(self.inbound, PEER, API, Call(source_ip=CALLER))
        self.tunnel = RelayTunnel()

    def request(self, authority: str, *forwarded: bytes) -> None:
        """Ask by CONNECT, with these words about the caller."""
        headers = tuple((b"forwarded", value) for value in forwarded)
        self.peer.on_request(self.tunnel.as_tunnel(), StreamRequested(STREAM, authority, headers))

    async def answered(self) -> None:
        """Wait for the answer."""
        await eventually(lambda: self.tunnel.accepted or self.tunnel.refused)

    def close(self) -> None:
        """Cut what is open."""
        self.stage.enforce(snapshot())
        self.admission.streams.judge_again()


@asynccontextmanager
async def door(state: Snapshot) -> AsyncIterator[Door]:
    """Give an inbound side that enforces `state`, its reactor running."""
    async with trio.open_nursery() as nursery:
        stage = scene(state)
        nursery.start_soon(stage.context.reactor.run)
        opened = Door(stage, nursery)
        yield opened
        opened.close()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


class TestJudgement:
    @pytest.mark.parametrize(
        ("authority", "status", "reason"),
        [
            ("", 400, "bad_authority"),
            ("10.77.0.1", 400, "bad_authority"),
            ("10.77.0.1:99999", 400, "bad_authority"),
            ("10.77.0.1:" + "9" * 5000, 400, "bad_authority"),
            ("10.77.0.9:80", 404, "not_this_host"),
            ("127.0.0.1:80", 404, "not_this_host"),
            ("localhost:80", 404, "not_this_host"),
            ("169.254.169.254:80", 404, "not_this_host"),
            (f"{ADDRESS}:22", 404, "no_workload"),
            (f"{ADDRESS}:15008", 404, "no_workload"),
        ],
    )
    async def test_never_an_open_proxy(self, authority: str, status: int, reason: str) -> None:
        """Only a registered port of this host's own address is dialled; all else is refused and logged."""
        async with door(snapshot(workloads=(local("api", 8080),))) as at:
            at.request(authority)
            (line,) = at.stage.logged("stream refused")
            assert at.tunnel.refused == [(STREAM, status, f"{reason}; id={line['id']}")]
            assert (line["status"], line["reason"], line["source"]) == (status, reason, str(WEB))
            assert at.stage.counted(telemetry.STREAMS_REFUSED, reason=reason) == 1

    async def test_log_holds_no_more_than_enough_of_what_the_peer_sent(self) -> None:
        """An endless authority does not fill the log."""
        async with door(snapshot()) as at:
            at.request("x" * 10_000)
            assert len(at.stage.logged("stream refused")[0]["authority"]) == 256

    async def test_denial(self) -> None:
        """A denied stream is refused with the policy's name and never dialled."""
        no_web = policy("no-web", Action.DENY, principals=(WEB.principal,))
        async with door(snapshot(workloads=(local("api", 8080),), policies=(no_web,))) as at:
            at.request(f"{ADDRESS}:8080")
            ((_, status, header),) = at.tunnel.refused
            assert status == 403
            assert header.startswith("denied; policy=default/no-web; id=")

    async def test_what_is_no_connect_is_logged(self) -> None:
        """A request that the protocol refused by itself leaves a line."""
        async with door(snapshot()) as at:
            at.peer.on_rejected(at.tunnel.as_tunnel(), RequestRejected(1, 405, "method_not_allowed"))
            assert at.stage.logged("stream refused")[0]["reason"] == "method_not_allowed"


class TestCaller:
    """Which address of its caller a peer is believed."""

    @pytest.mark.parametrize(
        ("forwarded", "remote_ip", "told"),
        [
            ((), None, (CALLER, 0)),
            ((b'for="10.77.0.2:4711"',), CALLER, (CALLER, 4711)),
            ((b'for="10.99.0.2:4711"',), RECORDED, (RECORDED, 4711)),
            ((b"for=10.99.0.2",), RECORDED, (RECORDED, 0)),
            # Of nobody, of another node, of two nodes, of this host, of none.
            ((b'for="192.0.2.66:4711"',), None, (CALLER, 0)),
            ((b"for=10.77.0.3",), None, (CALLER, 0)),
            ((b"for=10.99.0.9",), None, (CALLER, 0)),
            ((f"for={ADDRESS}".encode(),), None, (CALLER, 0)),
            ((b"for=unknown",), None, (CALLER, 0)),
            ((b"for=10.99.0.2, for=10.99.0.2",), None, (CALLER, 0)),
            ((b"for=10.99.0.2", b"for=10.99.0.2"), None, (CALLER, 0)),
        ],
    )
    async def test_believed(
        self,
        workload: socket.socket,
        forwarded: tuple[bytes, ...],
        remote_ip: str | None,
        told: tuple[str, int],
    ) -> None:
        """Only what is the peer's own: where its tunnel comes from, or what the record of its node says."""
        port = port_of(workload)
        state = msgspec.structs.replace(
            snapshot(workloads=(msgspec.structs.replace(local("api", port), proxy_protocol=True),)),
            nodes={
                "app-1": RECORDED,
                "app-2": "10.77.0.3",
                "app-3": "10.99.0.9",
                "app-4": "10.99.0.9",
                "web-1": ADDRESS,
            },
        )
        async with door(state) as at:
            at.request(f"{ADDRESS}:{port}", *forwarded)
            await at.answered()
            served, _ = workload.accept()
            with served:
                expected = proxy_header(source=told, destination=(ADDRESS, port), spiffe_id=str(WEB))
                assert served.recv(500) == expected
            (decided,) = at.stage.context.decisions.take(0.0)
            assert (decided.source_ip, decided.remote_ip) == (CALLER, remote_ip or "")

    @pytest.mark.parametrize("claimed", [{"app-1": ADDRESS}, {"app-1": RECORDED, "web-9": RECORDED}])
    async def test_a_claim_that_is_not_its_own(
        self, workload: socket.socket, claimed: dict[str, str]
    ) -> None:
        """A node whose record claims this host's address, or another node's, may not speak from it."""
        port = port_of(workload)
        state = msgspec.structs.replace(snapshot(workloads=(local("api", port),)), nodes=claimed)
        async with door(state) as at:
            at.request(f"{ADDRESS}:{port}", f"for={claimed['app-1']}".encode())
            await at.answered()
            (decided,) = at.stage.context.decisions.take(0.0)
            assert decided.remote_ip == ""


class TestDial:
    async def test_accepted_only_when_the_workload_answers(self, workload: socket.socket) -> None:
        """200 is said once the workload's connection stands; then bytes flow both ways."""
        async with door(snapshot(workloads=(local("api", port_of(workload)),))) as at:
            at.request(f"{ADDRESS}:{port_of(workload)}")
            await at.answered()
            assert at.tunnel.accepted == [STREAM]
            served, _ = workload.accept()
            with served:
                at.tunnel.handlers[STREAM].on_data(memoryview(b"question"))
                assert served.recv(100) == b"question"
                served.send(b"answer")
                await eventually(lambda: at.tunnel.sent == b"answer")

    async def test_nobody_listens(self) -> None:
        """A workload that is not there is 503, counted and logged."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = port_of(gone)
        async with door(snapshot(workloads=(local("api", port),))) as at:
            at.request(f"{ADDRESS}:{port}")
            await at.answered()
            (line,) = at.stage.logged("stream refused")
            assert at.tunnel.refused == [(STREAM, 503, f"dial_failed; id={line['id']}")]
            assert at.stage.counted(telemetry.STREAMS_REFUSED, reason="dial_failed") == 1
            assert at.admission.streams._open == set()

    async def test_what_comes_during_the_dial_is_kept(self, slow_workload: SlowWorkload) -> None:
        """Payload and END_STREAM that arrive before the workload answers reach it, in order."""
        port = slow_workload.port
        async with door(snapshot(workloads=(local("api", port),))) as at:
            at.request(f"{ADDRESS}:{port}")
            handler = at.tunnel.handlers[STREAM]
            handler.on_data(memoryview(b"early "))
            handler.on_data(memoryview(b"bird"))
            handler.on_ended()
            assert at.tunnel.accepted == []
            served = await slow_workload.accept()
            await at.answered()
            with served, served.makefile("rb") as stream:
                assert stream.read() == b"early bird"
            assert at.tunnel.credit == len(b"early bird")

    async def test_caller_gone_during_the_dial(self, slow_workload: SlowWorkload) -> None:
        """When the caller resets during the dial the workload's connection is closed again, unanswered."""
        port = slow_workload.port
        async with door(snapshot(workloads=(local("api", port),))) as at:
            at.request(f"{ADDRESS}:{port}")
            at.tunnel.handlers[STREAM].on_reset(CANCEL)
            with await slow_workload.accept() as served:
                await trio.testing.wait_all_tasks_blocked()
                assert served.recv(1) == b""
            assert (at.tunnel.accepted, at.tunnel.refused) == ([], [])
            assert at.admission.streams._open == set()

    async def test_policy_that_changes_during_the_dial(self, slow_workload: SlowWorkload) -> None:
        """A DENY that comes during the dial cuts the stream before it is accepted."""
        port = slow_workload.port
        workloads = (local("api", port),)
        no_web = policy("no-web", Action.DENY, principals=(WEB.principal,))
        async with door(snapshot(workloads=workloads)) as at:
            at.request(f"{ADDRESS}:{port}")
            at.stage.enforce(snapshot(revision=2, workloads=workloads, policies=(no_web,)))
            at.admission.streams.judge_again()
            assert at.tunnel.resets == [(STREAM, CANCEL)]
            (await slow_workload.accept()).close()
            await trio.testing.wait_all_tasks_blocked()
            assert at.tunnel.accepted == []

    async def test_policy_that_changes_later(self, workload: socket.socket) -> None:
        """A DENY that comes while bytes flow cuts both sides, and the log says by which policy."""
        workloads = (local("api", port_of(workload)),)
        no_web = policy("no-web", Action.DENY, principals=(WEB.principal,))
        async with door(snapshot(workloads=workloads)) as at:
            at.request(f"{ADDRESS}:{port_of(workload)}")
            await at.answered()
            served, _ = workload.accept()
            with served:
                at.stage.enforce(snapshot(revision=2, workloads=workloads, policies=(no_web,)))
                at.admission.streams.judge_again()
                assert at.tunnel.resets == [(STREAM, CANCEL)]
                assert Reader(served).ended() == "reset"
            (line,) = at.stage.logged("connection closed")
            assert line["outcome"] == "policy: default/no-web"

    async def test_books_are_balanced(self, workload: socket.socket) -> None:
        """A connection that ended is no longer open, in the numbers and for the admission."""
        async with door(snapshot(workloads=(local("api", port_of(workload)),))) as at:
            at.request(f"{ADDRESS}:{port_of(workload)}")
            await at.answered()
            assert at.stage.counted(telemetry.CONNECTIONS_OPEN, side="inbound") == 1
            served, _ = workload.accept()
            with served:
                at.tunnel.handlers[STREAM].on_reset(CANCEL)
            assert at.stage.counted(telemetry.CONNECTIONS_OPEN, side="inbound") == 0
            assert at.stage.counted(telemetry.CONNECTIONS_CLOSED, outcome="cut") == 1
            assert at.admission.streams._open == set()


class TestFreed:
    """Ended streams are freed by reference counting: thousands that end at once leave no garbage."""

    @pytest.mark.parametrize("end", ["done", "reset", "broken", "cut"])
    async def test_after_payload(self, workload: socket.socket, end: str) -> None:
        """However an accepted stream ends, nothing of it is left."""
        port = port_of(workload)
        with counting_alone():
            async with door(snapshot(workloads=(local("api", port),))) as at:
                at.request(f"{ADDRESS}:{port}")
                await at.answered()
                assert alive(*STREAM_PARTS) == ["InboundStream", "OpenStream", "SocketSide", "StreamRelay"]
                served, _ = workload.accept()
                with served:
                    match end:
                        case "done":
                            at.tunnel.handlers[STREAM].on_ended()
                            served.shutdown(socket.SHUT_WR)
                        case "reset":
                            at.tunnel.handlers.pop(STREAM).on_reset(CANCEL)
                        case "broken":
                            reset(served)
                        case _:
                            at.close()
                    await eventually(lambda: at.stage.logged("connection closed"))
                await trio.testing.wait_all_tasks_blocked()
                assert alive(*STREAM_PARTS) == []

    @pytest.mark.parametrize("end", ["reset", "cut"])
    async def test_during_the_dial(self, slow_workload: SlowWorkload, end: str) -> None:
        """A stream that ends before its workload answers is gone once the dial has ended too."""
        port = slow_workload.port
        with counting_alone():
            async with door(snapshot(workloads=(local("api", port),))) as at:
                at.request(f"{ADDRESS}:{port}")
                if end == "reset":
                    at.tunnel.handlers.pop(STREAM).on_reset(CANCEL)
                else:
                    at.close()
                (await slow_workload.accept()).close()
                await trio.testing.wait_all_tasks_blocked()
                assert alive(*STREAM_PARTS) == []

    async def test_refused(self) -> None:
        """A stream whose workload is not there leaves nothing."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = port_of(gone)
        with counting_alone():
            async with door(snapshot(workloads=(local("api", port),))) as at:
                at.request(f"{ADDRESS}:{port}")
                await at.answered()
                await trio.testing.wait_all_tasks_blocked()
                assert alive(*STREAM_PARTS) == []


class TestHandshakes:
    async def test_connection_reset_before_its_handshake(self, authority: Authority) -> None:
        """A connection reset before TLS looks at it is one refused tunnel, and the worker goes on."""
        stage = scene(contexts=tls_contexts(authority, authority.issue(API)))
        near, far = tcp_pair()
        reset(near)
        async with trio.open_nursery() as nursery:
            inbound = inbound_of(stage, nursery)
            inbound.accepted(far)
        assert [line["reason"] for line in stage.logged("tunnel refused")] == ["closed"]
        assert stage.counted(telemetry.TUNNELS_REFUSED, side="inbound", reason="closed") == 1
        assert inbound._handshakes == 0

    async def test_handshakes_are_bounded(self, authority: Authority) -> None:
        """Connections beyond the limit of handshakes under way are closed at once, and counted."""
        stage = scene(contexts=tls_contexts(authority, authority.issue(API)))
        with ExitStack() as stack:
            near, far = tcp_pair()
            stack.callback(near.close)
            async with trio.open_nursery() as nursery:
                inbound = inbound_of(stage, nursery)
                inbound._handshakes = MAX_HANDSHAKES
                inbound.accepted(far)
                nursery.cancel_scope.cancel()
            assert Reader(near).ended() == "end"
        assert stage.counted(telemetry.LIMIT_REACHED, limit="handshakes") == 1


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[fd00::1]:65535", ("fd00::1", 65535)),
        ("[FD00:0::0:1]:1", ("fd00::1", 1)),
        ("fd00::1:80", ("fd00::1", 80)),
        ("api.mesh:80", ("api.mesh", 80)),
        ("10.0.0.1", None),
        ("10.0.0.1:", None),
        (":80", None),
        ("10.0.0.1:0", None),
        ("10.0.0.1:65536", None),
        ("10.0.0.1:-1", None),
        ("10.0.0.1:8 0", None),
        ("10.0.0.1:٨٠", None),
        ("10.0.0.1:" + "1" * 5000, None),
        ("a b:80", None),
        ("", None),
    ],
)
def test_authority(text: str, parsed: tuple[str, int] | None) -> None:
    """An authority is an address or a name, and a port in plain digits."""
    assert parse_authority(text) == parsed
