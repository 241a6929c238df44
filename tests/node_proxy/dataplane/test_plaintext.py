"""Connections past the mesh: judged, relayed or reset. nftables' redirect is in the lab's tests."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from node_proxy.dataplane import plaintext, telemetry
from node_proxy.dataplane.accept import original_destination
from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.local_relay import LocalRelay
from node_proxy.dataplane.open_streams import OpenStream
from node_proxy.dataplane.plaintext import Plaintext, PlaintextConnection, is_own_address
from node_proxy.dataplane.socket_side import SocketSide
from node_proxy.snapshot import LocalWorkload, Snapshot
from registry.model.authorization import Action, AuthorizationPolicy
from registry.model.decision import Outcome
from registry.model.peer_authentication import MtlsMode
from registry.model.service import PortProtocol
from tests.fakes.context import scene, snapshot
from tests.fakes.eventually import eventually
from tests.fakes.garbage import alive, counting_alone
from tests.fakes.guards import guard_of
from tests.fakes.tcp import Reader, reset, tcp_pair
from tests.integration.snapshots import local, policy
from tests.registry.rules.policies import policy as rule_policy
from tests.registry.rules.policies import targets

HERE, ELSEWHERE = "127.0.0.1", "192.0.2.7"
PARTS = (PlaintextConnection, LocalRelay, SocketSide, OpenStream)
EVERYBODY = policy("everybody", Action.ALLOW)
NOBODY = policy("nobody", Action.DENY)


@pytest.fixture
def workload() -> Iterator[socket.socket]:
    """Give the listening socket of a workload of this host."""
    with socket.create_server((HERE, 0)) as sock:
        sock.settimeout(10)
        yield sock


def port_of(sock: socket.socket) -> int:
    """Give the port of a listening socket."""
    port: int = sock.getsockname()[1]
    return port


def state(
    port: int,
    mode: MtlsMode = MtlsMode.PERMISSIVE,
    *,
    policies: tuple[AuthorizationPolicy, ...] = (),
    workload: LocalWorkload | None = None,
) -> Snapshot:
    """Give a state with a workload at `port`."""
    made = snapshot(workloads=(workload or local("api", port),), policies=policies)
    return msgspec.structs.replace(made, mtls_mode=mode)


NO_ADMIN = rule_policy("no-admin", targets({"paths": ["/admin"]}), action="DENY")


class Gate:
    """The plaintext side of a worker; what its connections were meant for is in the test's hand."""

    def __init__(self, enforced: Snapshot, nursery: trio.Nursery, stack: ExitStack) -> None:
        self.stage = scene(enforced)
        self.admission = Admission(self.stage.context)
        self.called: tuple[str, int] | None = None
        self.plaintext = Plaintext(
            self.stage.context,
            nursery,
            self.admission,
            guard_of(self.stage.context, self.admission),
            called=lambda _sock: self.called,
        )
        self._stack = stack

    def call(self, called: tuple[str, int] | None) -> Reader:
        """Come in, meant for `called`; gives the caller's end."""
        near, caller = tcp_pair()
        self._stack.callback(caller.close)
        self._stack.callback(near.close)
        self.called = called
        self.plaintext.accepted(near)
        return Reader(caller)

    def change(self, enforced: Snapshot) -> None:
        """Put another state in force, as a worker does."""
        self.stage.enforce(enforced)
        self.admission.streams.judge_again()

    def refused(self, reason: str) -> float:
        """Say how many were refused for a reason."""
        return self.stage.counted(telemetry.STREAMS_REFUSED, reason=reason)

    def assert_balanced(self) -> None:
        """Check that nothing is left of any connection."""
        assert self.plaintext.open_connections == 0
        assert self.admission.streams._open == set()
        assert self.stage.counted(telemetry.CONNECTIONS_OPEN) == 0


@asynccontextmanager
async def gate(enforced: Snapshot) -> AsyncIterator[Gate]:
    """Give a plaintext side whose reactor runs."""
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            opened = Gate(enforced, nursery, stack)
            nursery.start_soon(opened.stage.context.reactor.run)
            yield opened
            opened.change(snapshot())
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


class TestStrict:
    async def test_reset(self, workload: socket.socket) -> None:
        """Where an identity is required the caller is reset, and the workload hears nothing of it."""
        port = port_of(workload)
        async with gate(state(port, MtlsMode.STRICT, policies=(EVERYBODY,))) as at:
            assert at.call((HERE, port)).ended() == "reset"
            workload.setblocking(False)
            with pytest.raises(BlockingIOError):
                workload.accept()
            at.assert_balanced()

    async def test_told(self, workload: socket.socket) -> None:
        """It is counted as plaintext, logged with the caller's address, and recorded as a decision."""
        port = port_of(workload)
        async with gate(state(port, MtlsMode.STRICT)) as at:
            at.call((HERE, port))
            assert at.refused("plaintext") == 1
            assert at.stage.counted(telemetry.DENIALS, reason="plaintext", destination="default/api") == 1
            (line,) = at.stage.logged("stream refused")
            assert (line["reason"], line["source"], line["source_ip"]) == ("plaintext", "", HERE)
            assert (line["destination"], line["port"]) == ("default/api", port)
            assert "spec.mtlsMode is STRICT" in line["detail"]
            (decided,) = at.stage.context.decisions.take(0.0)
            assert (decided.outcome, decided.reason) == (Outcome.DENIED, "plaintext")
            assert (decided.source, decided.source_ip, decided.destination_ip) == ("", HERE, HERE)
            assert decided.ids == (line["id"],)


class TestPermissive:
    async def test_bytes_flow(self, workload: socket.socket) -> None:
        """Where none is required bytes flow both ways, are counted as plaintext and logged."""
        port = port_of(workload)
        async with gate(state(port)) as at:
            caller = at.call((HERE, port))
            served, _ = workload.accept()
            with served:
                served.setblocking(False)
                heard = Reader(served)
                caller.sock.send(b"question")
                await eventually(lambda: heard.read() == b"question")
                served.send(b"the answer")
                await eventually(lambda: caller.read() == b"the answer")
                assert at.stage.counted(telemetry.CONNECTIONS_OPEN, security="plaintext") == 1
            caller.sock.shutdown(socket.SHUT_WR)
            await eventually(lambda: at.stage.logged("connection closed"))
            (line,) = at.stage.logged("connection closed")
            assert (line["security"], line["source"], line["source_ip"]) == ("plaintext", "", HERE)
            # As with tunnels, what is sent is what the workload has said.
            assert (line["bytes_sent"], line["bytes_received"], line["outcome"]) == (10, 8, "done")
            assert at.stage.counted(telemetry.BYTES_SENT, security="plaintext") == 10
            at.assert_balanced()

    async def test_policies_hold(self, workload: socket.socket) -> None:
        """The policies decide as over any caller without an identity; a denial is no matter of plaintext."""
        port = port_of(workload)
        async with gate(state(port, policies=(NOBODY,))) as at:
            assert at.call((HERE, port)).ended() == "reset"
            (line,) = at.stage.logged("stream refused")
            assert (line["reason"], line["policy"]) == ("denied", "default/nobody")
            at.assert_balanced()

    @pytest.mark.parametrize(
        "changed", [{"mode": MtlsMode.STRICT}, {"policies": (NOBODY,)}], ids=["strict", "denied"]
    )
    async def test_judged_again(self, workload: socket.socket, changed: dict[str, object]) -> None:
        """What is open is cut at both ends when a change no longer allows it."""
        port = port_of(workload)
        async with gate(state(port)) as at:
            caller = at.call((HERE, port))
            served, _ = workload.accept()
            with served:
                served.setblocking(False)
                at.change(state(port, **changed))  # type: ignore[arg-type]
                assert caller.ended() == "reset"
                assert Reader(served).ended() == "reset"
            assert at.stage.counted(telemetry.STREAMS_CUT, workload="default/api") == 1
            at.assert_balanced()

    async def test_nobody_listens(self) -> None:
        """A workload that is not there: the caller is reset, and the reason counted."""
        with socket.create_server((HERE, 0)) as gone:
            port = port_of(gone)
        async with gate(state(port)) as at:
            caller = at.call((HERE, port))
            await eventually(lambda: caller.ended() == "reset")
            assert at.refused("dial_failed") == 1
            assert at.stage.logged("stream refused")[0]["source_ip"] == HERE
            at.assert_balanced()

    async def test_cut_during_the_dial(self) -> None:
        """A change during the dial is obeyed, and nothing is left of the connection."""
        with socket.create_server((HERE, 0), backlog=0) as busy, ExitStack() as fillers:
            port = port_of(busy)
            for _ in range(3):
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex((HERE, port))
            async with gate(state(port)) as at:
                caller = at.call((HERE, port))
                assert caller.ended() == ""
                at.change(state(port, MtlsMode.STRICT))
                assert caller.ended() == "reset"
                at.assert_balanced()

    async def test_told_to_the_workload(self, workload: socket.socket) -> None:
        """A workload that wants the PROXY header gets the caller's address, and no identity."""
        port = port_of(workload)
        wishing = msgspec.structs.replace(local("api", port), proxy_protocol=True)
        async with gate(state(port, workload=wishing)) as at:
            caller = at.call((HERE, port))
            served, _ = workload.accept()
            with served:
                header = served.recv(100)
            own = caller.sock.getsockname()
            assert header[13:16] == b"\x11\x00\x0c"
            assert header[16:] == socket.inet_aton(HERE) * 2 + own[1].to_bytes(2) + port.to_bytes(2)


class TestNotRedirected:
    async def test_dialled_directly(self) -> None:
        """Who dials the listener itself is refused, whether or not the kernel tracked the connection."""
        async with gate(snapshot()) as at:
            assert at.call(None).ended() == "reset"
            near, caller = tcp_pair()
            with caller:
                at.called = near.getsockname()
                at.plaintext.accepted(near)
                assert Reader(caller).ended() == "reset"
            assert at.refused("not_redirected") == 2

    async def test_the_kernel_of_a_direct_dial(self) -> None:
        """Of a connection that was not redirected the kernel names no destination, or this one."""
        near, caller = tcp_pair()
        with near, caller:
            assert original_destination(near) in (None, near.getsockname())

    async def test_port_of_no_workload(self, workload: socket.socket) -> None:
        """A port that no workload of this host has is refused, although something listens there."""
        async with gate(state(1)) as at:
            assert at.call((HERE, port_of(workload))).ended() == "reset"
            assert at.refused("no_workload") == 1

    async def test_meant_for_another_host(self, workload: socket.socket) -> None:
        """A router takes nothing that passes through it."""
        port = port_of(workload)
        async with gate(state(port)) as at:
            assert at.call((ELSEWHERE, port)).ended() == "reset"
            assert at.refused("not_redirected") == 1

    async def test_gone(self) -> None:
        """Who has gone already costs nothing but its socket."""
        async with gate(snapshot()) as at:
            near, caller = tcp_pair()
            reset(caller)
            await trio.sleep(0.01)
            at.plaintext.accepted(near)
            assert near.fileno() == -1


async def test_limit(workload: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many connections the next is reset, and that is counted."""
    monkeypatch.setattr(plaintext, "MAX_CONNECTIONS", 1)
    port = port_of(workload)
    async with gate(state(port)) as at:
        first, second = at.call((HERE, port)), at.call((HERE, port))
        assert (first.ended(), second.ended()) == ("", "reset")
        assert at.stage.counted(telemetry.LIMIT_REACHED, limit="plaintext") == 1


@pytest.mark.parametrize("end", ["done", "broken", "cut"])
async def test_freed(workload: socket.socket, end: str) -> None:
    """However a connection ends, reference counting frees all of it."""
    port = port_of(workload)
    with counting_alone():
        async with gate(state(port)) as at:
            caller = at.call((HERE, port))
            served, _ = workload.accept()
            held = ["LocalRelay", "OpenStream", "PlaintextConnection", "SocketSide", "SocketSide"]
            assert alive(*PARTS) == held
            with served:
                match end:
                    case "done":
                        caller.sock.shutdown(socket.SHUT_WR)
                        served.shutdown(socket.SHUT_WR)
                    case "broken":
                        reset(served)
                    case _:
                        at.change(snapshot())
                await eventually(lambda: at.stage.logged("connection closed"))
            await trio.testing.wait_all_tasks_blocked()
            assert alive(*PARTS) == []


@pytest.mark.parametrize(
    ("address", "own"), [(HERE, True), ("::1", True), (ELSEWHERE, False), ("2001:db8::7", False)]
)
def test_own_address(address: str, own: bool) -> None:
    """An address is this host's or not, of either family."""
    assert is_own_address(address) is own


class TestHttp:
    async def test_each_request_is_judged(self, workload: socket.socket) -> None:
        """On a port of HTTP a caller without an identity is judged request by request, and told why."""
        port = port_of(workload)
        made = state(port, workload=local("api", port, protocol=PortProtocol.HTTP), policies=(NO_ADMIN,))
        async with gate(made) as at:
            caller = at.call((HERE, port))
            caller.sock.send(b"GET /x/../admin HTTP/1.1\r\nhost: api\r\n\r\n")
            await eventually(lambda: caller.read().startswith(b"HTTP/1.1 403 "))
            assert b"nodemesh-reason: denied; policy=default/no-admin" in caller.read()
            caller.sock.close()
            await eventually(lambda: at.stage.logged("connection closed"))
            (line,) = at.stage.logged("connection closed")
            assert (line["security"], line["requests"]) == ("plaintext", 1)
            at.assert_balanced()

    async def test_cut(self, workload: socket.socket) -> None:
        """A connection of requests is cut when its workload requires an identity from now on."""
        port = port_of(workload)
        http = local("api", port, protocol=PortProtocol.HTTP)
        async with gate(state(port, workload=http)) as at:
            caller = at.call((HERE, port))
            await trio.testing.wait_all_tasks_blocked()
            at.change(state(port, MtlsMode.STRICT, workload=http))
            await eventually(lambda: not at.plaintext.open_connections)
            assert caller.ended() == "reset"
            at.assert_balanced()
