import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.cgroups import Cgroups
from node_proxy.dataplane.owner_lookup import OwnerLookup
from node_proxy.owners import Process
from tests.fakes.context import Scene, scene
from tests.support.owned import OwnedClient, slice_of_test

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="takes other users' places"),
]

WEB_USER, BATCH_USER = 4242, 4243
FAMILIES = pytest.mark.parametrize("address", ["127.0.0.1", "::1"])


@pytest.fixture(scope="module")
def slice_() -> Iterator[str]:
    """A slice of these tests."""
    with slice_of_test() as path:
        yield path


@pytest.fixture
def stage() -> Scene:
    return scene()


@pytest.fixture
def lookup(stage: Scene) -> Iterator[OwnerLookup]:
    made = OwnerLookup(stage.context, Cgroups(stage.context.clock, list))
    yield made
    made.close()


@pytest.fixture
def listen() -> Iterator[Callable[[str], socket.socket]]:
    """Give what makes listening sockets, closed afterwards."""
    made: list[socket.socket] = []

    def one(address: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made.append(socket.create_server((address, 0), family=family))
        made[-1].settimeout(5)
        return made[-1]

    yield one
    for each in made:
        each.close()


@FAMILIES
def test_user_and_cgroup(
    slice_: str, stage: Scene, lookup: OwnerLookup, listen: Callable[[str], socket.socket], address: str
) -> None:
    """Two processes of one host are told apart by user and cgroup, over either family."""
    server = listen(address)
    for uid, name in ((WEB_USER, "web"), (BATCH_USER, "batch")):
        cgroup = f"{slice_}/{name}.service"
        with OwnedClient(uid=uid, cgroup=cgroup) as client:
            client.connect(address, server.getsockname()[1])
            with server.accept()[0] as accepted:
                process = lookup.process(accepted, redirected=False)
        assert process == Process(uid, cgroup)
        assert process.unit == f"{name}.service"
    assert stage.counted(telemetry.OWNER_LOOKUPS, outcome="found") == 2


def test_ipv4_within_ipv6(slice_: str, lookup: OwnerLookup, listen: Callable[[str], socket.socket]) -> None:
    """A caller that uses an IPv6 socket for an IPv4 address is found."""
    server = listen("127.0.0.1")
    with OwnedClient(uid=WEB_USER, cgroup=f"{slice_}/web.service") as client:
        client.connect("::ffff:127.0.0.1", server.getsockname()[1])
        with server.accept()[0] as accepted:
            assert lookup.process(accepted, redirected=False).uid == WEB_USER


def test_ipv4_within_an_ipv6_listener(slice_: str, lookup: OwnerLookup) -> None:
    """So is a caller of a listener that has both families."""
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        OwnedClient(uid=WEB_USER, cgroup=f"{slice_}/web.service") as client,
    ):
        client.connect("127.0.0.1", server.getsockname()[1])
        with server.accept()[0] as accepted:
            assert lookup.process(accepted, redirected=False).uid == WEB_USER


def test_children_and_sub_cgroups(
    slice_: str, lookup: OwnerLookup, listen: Callable[[str], socket.socket]
) -> None:
    """A forked child, and one moved to a sub-cgroup of the unit, are of the unit."""
    server = listen("127.0.0.1")
    for cgroup in (f"{slice_}/web.service", f"{slice_}/web.service/workers/1"):
        with OwnedClient(uid=WEB_USER, cgroup=cgroup) as client:
            client.do("fork")
            client.connect("127.0.0.1", server.getsockname()[1])
            with server.accept()[0] as accepted:
                process = lookup.process(accepted, redirected=False)
        assert (process.cgroup, process.unit) == (cgroup, "web.service")


@FAMILIES
def test_the_others_source_port(
    slice_: str, lookup: OwnerLookup, listen: Callable[[str], socket.socket], address: str
) -> None:
    """Who takes the source port of a caller that has gone is not taken for that caller."""
    server = listen(address)
    port = server.getsockname()[1]
    with (
        OwnedClient(uid=WEB_USER, cgroup=f"{slice_}/web.service") as web,
        OwnedClient(uid=BATCH_USER, cgroup=f"{slice_}/batch.service") as batch,
    ):
        source = web.connect_from_own_port(address, port)
        with server.accept()[0] as accepted:
            assert lookup.process(accepted, redirected=False).uid == WEB_USER
            web.do("reset")
        batch.connect(address, port, source=source)
        with server.accept()[0] as accepted:
            assert accepted.getpeername()[:2] == source
            assert lookup.process(accepted, redirected=False) == Process(
                BATCH_USER, f"{slice_}/batch.service"
            )


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_connection_of_the_former_user_of_a_port(
    slice_: str, lookup: OwnerLookup, listen: Callable[[str], socket.socket], end: str
) -> None:
    """What a caller left behind in the queue does not become that of the next user of its source port."""
    server = listen("127.0.0.1")
    port = server.getsockname()[1]
    with (
        OwnedClient(uid=WEB_USER, cgroup=f"{slice_}/web.service") as web,
        OwnedClient(uid=BATCH_USER, cgroup=f"{slice_}/batch.service") as batch,
    ):
        source = batch.connect_from_own_port("127.0.0.1", port)
        batch.do("send", "in the other's name")
        batch.do(end)
        with contextlib.suppress(OSError):
            web.connect("127.0.0.1", port, source=source)
        with server.accept()[0] as left:
            assert lookup.process(left, redirected=False).uid is None
            assert lookup.process(left, redirected=False).unit != "web.service"


def test_a_listener_is_no_caller(
    slice_: str, lookup: OwnerLookup, listen: Callable[[str], socket.socket]
) -> None:
    """A caller that has gone is not taken for a service that listens on what was its source port."""
    server = listen("127.0.0.1")
    with (
        OwnedClient(uid=WEB_USER, cgroup=f"{slice_}/web.service") as web,
        OwnedClient(uid=BATCH_USER, cgroup=f"{slice_}/batch.service") as batch,
    ):
        source = batch.connect_from_own_port("127.0.0.1", server.getsockname()[1])
        with server.accept()[0] as accepted:
            batch.do("close")
            assert accepted.recv(1) == b""
            web.do("listen", *source)
            assert lookup.process(accepted, redirected=False).uid is None


def test_half_closed(slice_: str, lookup: OwnerLookup, listen: Callable[[str], socket.socket]) -> None:
    """A caller that has said all it wants to say, and listens, is known."""
    server = listen("127.0.0.1")
    with OwnedClient(uid=WEB_USER, cgroup=f"{slice_}/web.service") as client:
        client.connect("127.0.0.1", server.getsockname()[1])
        client.do("send", "all")
        client.do("half_close")
        with server.accept()[0] as accepted:
            assert accepted.recv(10) == b"all"
            assert lookup.process(accepted, redirected=False) == Process(WEB_USER, f"{slice_}/web.service")


@pytest.mark.parametrize("end", ["close", "reset"])
def test_short_lived(
    slice_: str, stage: Scene, lookup: OwnerLookup, listen: Callable[[str], socket.socket], end: str
) -> None:
    """Of a caller that has closed the user is not known any more, and the cgroup for a moment at most."""
    cgroup = f"{slice_}/web.service"
    server = listen("127.0.0.1")
    with OwnedClient(uid=WEB_USER, cgroup=cgroup) as client:
        client.connect("127.0.0.1", server.getsockname()[1])
        client.do("send", "gone")
        client.do(end)
        with server.accept()[0] as accepted:
            early = lookup.process(accepted, redirected=False)
            assert early in (Process(), Process(None, cgroup))
            while lookup.process(accepted, redirected=False) != Process():
                # Until our end has acknowledged the end of theirs.
                accepted.recv(100)
    assert stage.counted(telemetry.OWNER_LOOKUPS, outcome="gone") >= 1
    assert stage.counted(telemetry.OWNER_LOOKUPS, outcome="found") == 0


def test_a_caller_that_was_let_go(
    slice_: str, lookup: OwnerLookup, listen: Callable[[str], socket.socket]
) -> None:
    """Of a caller that closed with bytes still on their way, the cgroup is known and the user is not."""
    server = listen("127.0.0.1")
    with OwnedClient(uid=WEB_USER, cgroup=f"{slice_}/web.service") as client:
        client.connect("127.0.0.1", server.getsockname()[1])
        with server.accept()[0] as accepted:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.do("send", "x" * 200_000)
            client.do("close")
            assert lookup.process(accepted, redirected=False) == Process(None, f"{slice_}/web.service")


def test_failure_is_counted_and_logged_once(stage: Scene, lookup: OwnerLookup) -> None:
    """When the kernel cannot be asked, callers are unknown, and the log says so once."""

    class Refusing:
        def ask(self, kind: int, question: bytes) -> bytes:
            raise OSError(errno.EPERM, "Operation not permitted")

        def close(self) -> None: ...

    lookup._sockets.close()
    lookup._sockets = Refusing()  # type: ignore[assignment]
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as accepted,
    ):
        assert [lookup.process(accepted, redirected=False) for _ in range(3)] == [Process()] * 3
    assert stage.counted(telemetry.OWNER_LOOKUPS, outcome="error") == 3
    (line,) = stage.logged("owner lookup failed, callers are unknown")
    assert "Operation not permitted" in line["error"]


def test_redirected() -> None:
    """Behind nftables' redirect the same holds, also for two callers with one source port."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.node_proxy.dataplane.owner_probe"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "IPv4": ["4242 web.service", "4243 batch.service"],
        "IPv6": ["4242 web.service", "4243 batch.service"],
        "mapped": "4242 web.service",
        "one source port": ["4242 web.service", "4243 batch.service"],
        "given another port": True,
        "the other's source port": "4243 batch.service",
        "half-closed": "4242 web.service",
        "gone": "None ",
        "not redirected": "None ",
    }
