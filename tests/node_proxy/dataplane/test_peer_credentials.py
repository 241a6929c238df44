"""Who calls through a Unix socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_proxy.dataplane.cgroups import Cgroups
from node_proxy.dataplane.owner_lookup import OwnerLookup
from node_proxy.dataplane.peer_credentials import cgroup_of
from node_proxy.owners import Process
from tests.fakes.context import scene
from tests.support.owned import OwnedClient, slice_of_test

USER = 4242


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        ("0::/system.slice/web.service\n", "/system.slice/web.service"),
        ("12:cpu:/a\n1:name=systemd:/b\n0::/c:d\n", "/c:d"),
        ("0::/\n", "/"),
        ("0::/../other.slice\n", None),
        ("0::/web.service (deleted)\n", None),
        ("1:name=systemd:/b\n", None),
        ("", None),
    ],
)
def test_cgroup_of(text: str, cgroup: str | None) -> None:
    """The cgroup2 path is read, unless it says nothing that could be compared."""
    assert cgroup_of(text) == cgroup


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="takes other users' places")
class TestCallers:
    """Real callers."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[socket.socket]:
        """Give a socket that everybody may connect to."""
        folder = Path("/tmp") / f"nmesh-{os.getpid()}"  # noqa: S108 - tmp_path is closed to other users
        folder.mkdir(mode=0o755)
        path = folder / "s"
        with socket.socket(socket.AF_UNIX) as made:
            made.settimeout(5)
            made.bind(str(path))
            path.chmod(0o666)
            made.listen()
            yield made
        path.unlink()
        folder.rmdir()

    @pytest.fixture
    def lookup(self) -> Iterator[OwnerLookup]:
        """Give what asks the kernel."""
        stage = scene()
        made = OwnerLookup(stage.context, Cgroups(stage.context.clock, list))
        yield made
        made.close()

    def test_user_and_cgroup(self, server: socket.socket, lookup: OwnerLookup) -> None:
        """The caller's user and cgroup are known, and so its unit."""
        with slice_of_test() as slice_, OwnedClient(uid=USER, cgroup=f"{slice_}/web.service") as caller:
            caller.do("connect_unix", server.getsockname())
            accepted, _ = server.accept()
            with accepted:
                process = lookup.process(accepted, redirected=False)
            assert process == Process(USER, f"{slice_}/web.service")
            assert process.unit == "web.service"

    def test_gone(self, server: socket.socket, lookup: OwnerLookup) -> None:
        """Of a caller that has ended the user is known still, and of its number nothing is said."""
        with OwnedClient(uid=USER) as caller:
            caller.do("connect_unix", server.getsockname())
            accepted, _ = server.accept()
        with accepted:
            assert lookup.process(accepted, redirected=False) == Process(USER, None)
