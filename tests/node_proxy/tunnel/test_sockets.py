import socket

import pytest
import trio

from node_proxy.errors import DialError
from node_proxy.tunnel.sockets import connect, finish_connect, start_connect, tune


def free_port() -> int:
    """Give a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_tuned_socket_never_blocks_nor_waits() -> None:
    """A tuned socket is non-blocking, sends small writes at once, and is kept alive."""
    with socket.socket() as sock:
        tune(sock)
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_connect(address: str) -> None:
    """A connection to a listening port stands, over IPv4 and IPv6."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        sock = await connect(address, server.getsockname()[1], timeout=5.0)
        with sock:
            assert sock.getpeername()[:2] == server.getsockname()[:2]


async def test_refused() -> None:
    """Nobody listens: the error names the address and the reason."""
    port = free_port()
    with pytest.raises(DialError, match="refused") as raised:
        await connect("127.0.0.1", port, timeout=5.0)
    assert raised.value.address == f"127.0.0.1:{port}"


def test_start_connect_gives_no_address_away() -> None:
    """What is no address of this host's families is a DialError at once."""
    with pytest.raises(DialError):
        start_connect("256.0.0.1", 80)


async def test_no_answer_in_time() -> None:
    """A peer that does not answer is given up after the timeout."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        target = full.getsockname()
        # Linux drops further SYNs once the backlog is full.
        queued = [start_connect(*target)[0] for _ in range(3)]
        try:
            with pytest.raises(DialError, match="no answer within"):
                await connect(*target, timeout=0.05)
        finally:
            for sock in queued:
                sock.close()


async def test_cancellation_leaves_no_socket() -> None:
    """Giving up a connect closes its socket."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        queued = [start_connect(*full.getsockname())[0] for _ in range(3)]
        sock, connected = start_connect(*full.getsockname())
        assert not connected
        with trio.move_on_after(0.02) as scope:
            await finish_connect(sock, *full.getsockname())
        for each in queued:
            each.close()
    assert scope.cancelled_caught
    assert sock.fileno() == -1
