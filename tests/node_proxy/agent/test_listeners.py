import socket
from pathlib import Path

import msgspec
import pytest

from node_proxy.address import ListenAddress, SocketAddress
from node_proxy.agent.listeners import bind_all, bound_address, explicit_listeners, own_ports
from node_proxy.capture_settings import CaptureSection
from node_proxy.config import AdminSection, ProxyConfig, TunnelSection
from node_proxy.control import ListenerKind
from node_proxy.errors import ConfigError
from node_proxy.listener_settings import ListenerSection
from registry.model.identity import WorkloadIdentity
from tests.support.mesh import free_ports

ANY = SocketAddress("127.0.0.1:0")
WEB = WorkloadIdentity("nodemesh.local", "default", "web")


def proxy(
    *listeners: ListenerSection, tunnel: tuple[SocketAddress, ...] = (ANY,), admin: SocketAddress = ANY
) -> ProxyConfig:
    """Give a configuration with these addresses."""
    return ProxyConfig(
        node="web-1",
        address="127.0.0.1",
        registry="https://127.0.0.1:1",
        tunnel=TunnelSection(listen=tunnel),
        admin=AdminSection(listen=admin),
        listener=listeners,
    )


def test_everything_listens() -> None:
    """Each address of the configuration is a listening socket, of its own family only."""
    section = ListenerSection(
        address=ListenAddress(ANY), service="default/api", port=80, workload="default/web"
    )
    config = proxy(section, tunnel=(ANY, SocketAddress("[::1]:0")))
    listeners = bind_all(config)
    try:
        assert [each.family for each in listeners.tunnel] == [socket.AF_INET, socket.AF_INET6]
        assert len(listeners.for_workers) == 3
        for each in [*listeners.for_workers, *listeners.admin]:
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            assert not each.getblocking()
        assert bound_address(listeners.tunnel[1]).startswith("[::1]:")
        (explicit,) = explicit_listeners(config, listeners, {"default/web": WEB})
        assert explicit.fd == listeners.explicit[0].fileno()
        assert explicit.workload == str(WEB)
    finally:
        listeners.close()


@pytest.mark.parametrize("inbound", [False, True])
def test_plaintext(inbound: bool) -> None:
    """What other hosts send past the mesh is taken on every address of this host, if that is wanted."""
    (captured, plaintext) = free_ports(2, "127.0.0.1")
    section = CaptureSection(enabled=True, port=captured, inbound=inbound, inbound_port=plaintext)
    listeners = bind_all(msgspec.structs.replace(proxy(), capture=section))
    try:
        bound = [bound_address(each) for each in listeners.plaintext]
        assert bound == ([f"0.0.0.0:{plaintext}", f"[::]:{plaintext}"] if inbound else [])
        assert set(listeners.plaintext) <= set(listeners.for_workers)
    finally:
        listeners.close()


def test_address_in_use() -> None:
    """A taken port is the operator's fault: field, address and mend are named, and nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"admin\.listen: cannot listen on 127\.0\.0\.1:{port}: .* in use"
        ):
            bind_all(proxy(admin=SocketAddress(f"127.0.0.1:{port}")))


def test_address_of_another_host() -> None:
    """An address that is not this host's is named as such."""
    with pytest.raises(ConfigError, match=r"tunnel\.listen\[0\].*write an address of this host"):
        bind_all(proxy(tunnel=(SocketAddress("192.0.2.1:0"),)))


def test_restart_binds_again() -> None:
    """A port whose connections still linger can be bound by the next agent."""
    first = bind_all(proxy())
    port = first.tunnel[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        accepted, _ = first.tunnel[0].accept()
        accepted.close()
    first.close()
    bind_all(proxy(tunnel=(SocketAddress(f"127.0.0.1:{port}"),))).close()


def test_unix_socket(tmp_path: Path) -> None:
    """A Unix socket is a listener like the others, and its file goes with it."""
    path = tmp_path / "socks"
    config = proxy(ListenerSection(address=ListenAddress(f"unix:{path}"), type="socks5", mode="0600"))
    listeners = bind_all(config)
    try:
        assert bound_address(listeners.explicit[0]) == f"unix:{path}"
        (explicit,) = explicit_listeners(config, listeners, {})
        assert (explicit.kind, explicit.workload) == (ListenerKind.SOCKS5, None)
        numbers = [each.getsockname()[1] for each in [*listeners.tunnel, *listeners.admin]]
        assert own_ports(listeners) == tuple(sorted(numbers))
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        listeners.close()
    assert not path.exists()
