"""What a workload is told of its caller, over real sockets."""

import os
import random
import socket
from collections.abc import Iterator

import msgspec
import pytest

from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.dataplane.workload_dial import SOURCE_PORTS, SOURCE_TRIES, Origin, WorkloadDial, draw_port
from node_proxy.errors import DialError
from node_proxy.proxy_header import proxy_header
from node_proxy.snapshot import LocalWorkload
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from registry.model.peer_authentication import MtlsMode
from tests.fakes.context import scene, snapshot
from tests.integration.certificates import TRUST_DOMAIN
from tests.integration.snapshots import local

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
NODE = NodeIdentity(TRUST_DOMAIN, "web-1")
ORIGIN = Origin(("10.77.0.9", 4711), ("10.77.0.1", 80))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="speaks from a caller's address")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Give the listening socket of a workload."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(10)
        yield sock


def wishing(listener: socket.socket, **wishes: bool) -> LocalWorkload:
    """Give the workload that listens there, with its wishes."""
    return msgspec.structs.replace(local("api", listener.getsockname()[1]), **wishes)


def dial_of(
    workload: LocalWorkload, *, source: Identity | None = WEB, origin: Origin | None = ORIGIN
) -> WorkloadDial:
    """Give an admitted dial."""
    state = msgspec.structs.replace(snapshot(workloads=(workload,)), mtls_mode=MtlsMode.PERMISSIVE)
    context = scene(state).context
    admitted = Admission(context).admit(source=source, port=workload.ports[0], serving=None)
    assert isinstance(admitted, Admitted)
    return WorkloadDial(context, admitted, origin)


async def told(dial: WorkloadDial, listener: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """Dial, send a byte; gives all that the workload read, and from where it came."""
    with await dial.complete(timeout=5) as sock:
        accepted, peer = listener.accept()
        sock.sendall(b"!")
    with accepted, accepted.makefile("rb") as stream:
        return stream.read(), peer


class TestProxyProtocol:
    async def test_before_the_first_byte(self, listener: socket.socket) -> None:
        """The header comes first, with both addresses and who the caller has proven to be."""
        read, _ = await told(dial_of(wishing(listener, proxy_protocol=True)), listener)
        header = proxy_header(source=("10.77.0.9", 4711), destination=("10.77.0.1", 80), spiffe_id=str(WEB))
        assert read == header + b"!"

    @pytest.mark.parametrize("source", [NODE, None], ids=["node", "plaintext"])
    async def test_nobody(self, listener: socket.socket, source: Identity | None) -> None:
        """A node speaks for processes of no workload, plaintext for anybody: neither is given a name."""
        read, _ = await told(dial_of(wishing(listener, proxy_protocol=True), source=source), listener)
        assert read == proxy_header(source=("10.77.0.9", 4711), destination=("10.77.0.1", 80)) + b"!"

    async def test_unasked(self, listener: socket.socket) -> None:
        """A workload that asks for nothing gets nothing but the payload."""
        read, peer = await told(dial_of(wishing(listener)), listener)
        assert (read, peer[0]) == (b"!", "127.0.0.1")

    async def test_caller_unknown(self, listener: socket.socket) -> None:
        """Without an address to tell the workload is not called."""
        with pytest.raises(DialError, match="the caller is gone"):
            await dial_of(wishing(listener, proxy_protocol=True), origin=None).complete(timeout=5)


class TestPreserveSource:
    @pytest.mark.root
    @as_root
    async def test_from_the_callers_address(self, listener: socket.socket) -> None:
        """The workload sees the caller's address, and a port that no caller is given by itself."""
        origin = Origin(("127.0.0.9", 4711), ("10.77.0.1", 80))
        read, peer = await told(dial_of(wishing(listener, preserve_source=True), origin=origin), listener)
        assert (read, peer[0]) == (b"!", "127.0.0.9")
        assert peer[1] in SOURCE_PORTS

    @pytest.mark.root
    @as_root
    async def test_a_taken_port_is_passed_over(self, listener: socket.socket) -> None:
        """A port from which the workload is called already is drawn in vain, and another one is drawn."""
        origin = Origin(("127.0.0.9", 4711), ("10.77.0.1", 80))
        workload = wishing(listener, preserve_source=True)
        with (
            await dial_of(workload, origin=origin).complete(timeout=5) as first,
            # Its draws are the same.
            await dial_of(workload, origin=origin).complete(timeout=5) as second,
        ):
            assert first.getsockname() != second.getsockname()

    @pytest.mark.root
    @as_root
    async def test_every_port_taken(self, listener: socket.socket) -> None:
        """When no port drawn is free the dial fails at once, and leaves no socket."""
        rng = random.Random(7)  # noqa: S311 - the draws of the scene's own
        taken = {draw_port(rng) for _ in range(SOURCE_TRIES)}
        held = [socket.create_server(("127.0.0.9", port)) for port in taken]
        try:
            dial = dial_of(
                wishing(listener, preserve_source=True), origin=Origin(("127.0.0.9", 1), ("10.77.0.1", 80))
            )
            with pytest.raises(DialError, match="Address already in use"):
                await dial.complete(timeout=5)
        finally:
            for each in held:
                each.close()

    @pytest.mark.root
    @as_root
    async def test_host_of_the_right_family(self, listener: socket.socket) -> None:
        """An IPv6 caller that came by an IPv4 tunnel is shown by its host's address."""
        origin = Origin(("fd77::9", 4711), ("fd77::1", 80), host="127.0.0.9")
        _, peer = await told(dial_of(wishing(listener, preserve_source=True), origin=origin), listener)
        assert peer[0] == "127.0.0.9"

    async def test_of_the_other_family(self, listener: socket.socket) -> None:
        """An IPv6 caller cannot be shown to a workload on IPv4, and is not shown as anything else."""
        origin = Origin(("fd77::9", 4711), ("fd77::1", 80))
        with pytest.raises(DialError, match="fd77::9 is not IPv4"):
            await dial_of(wishing(listener, preserve_source=True), origin=origin).complete(timeout=5)


async def test_nobody_listens() -> None:
    """A workload that is not there fails with the kernel's word."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        workload = wishing(gone, proxy_protocol=True)
    with pytest.raises(DialError, match="Connection refused"):
        await dial_of(workload).complete(timeout=5)
