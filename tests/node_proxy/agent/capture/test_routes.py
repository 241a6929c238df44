import socket
from collections.abc import Iterator

import pytest

from node_proxy.agent.capture.installing import Installer
from tests.node_proxy.agent.capture.scenes import API4, API6, accepting, planned, reach
from tests.support.hosts import Host

pytestmark = pytest.mark.root

NOWHERE = "Network is unreachable"


@pytest.fixture
def isolated(app: Host) -> Host:
    """A host that knows its own network alone: no default route."""
    app.run("ip", "-4", "route", "del", "default")
    app.run("ip", "-6", "route", "del", "default")
    return app


@pytest.fixture
def proxy(isolated: Host) -> Iterator[list[socket.socket]]:
    with accepting() as listeners:
        yield listeners


def test_without_default_route(isolated: Host, installer: Installer, proxy: list[socket.socket]) -> None:
    """Ranges that nothing routes are reached through capture, from the host's own address, and only then."""
    assert [reach(each, 80, proxy) for each in (API4, API6)] == [NOWHERE, NOWHERE]
    installer.install(planned(), by="ada")
    assert reach(API4, 80, proxy) == f"{API4}:80"
    assert reach(API6, 80, proxy) == f"{API6}:80"
    chosen = isolated.run("ip", "route", "get", API4).stdout
    assert f"src {isolated.address}" in chosen
    installer.uninstall()
    assert [reach(each, 80, proxy) for each in (API4, API6)] == [NOWHERE, NOWHERE]
