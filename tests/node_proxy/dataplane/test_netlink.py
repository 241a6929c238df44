import errno
import os
import socket
import struct

import pytest

from node_proxy.dataplane import conntrack
from node_proxy.dataplane.netlink import NetlinkError, NetlinkSocket
from node_proxy.dataplane.owner_lookup import flow_of
from node_proxy.dataplane.sock_diag import NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, Flow, decode, encode

NOBODY = Flow(socket.inet_aton("127.0.0.1"), 1, socket.inet_aton("127.0.0.2"), 1)


@pytest.fixture
def netlink() -> NetlinkSocket:
    return NetlinkSocket(NETLINK_SOCK_DIAG)


def test_one_socket_for_many_questions(netlink: NetlinkSocket) -> None:
    """Questions are answered in turn, each with its own answer, on one descriptor."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pairs = [(socket.create_connection(server.getsockname()), server.accept()[0]) for _ in range(3)]
        descriptors = set()
        for caller, accepted in pairs:
            flow = flow_of(accepted)
            owner = decode(netlink.ask(SOCK_DIAG_BY_FAMILY, encode(flow)), flow)
            assert owner is not None
            assert (owner.uid, owner.inode) == (os.geteuid(), os.fstat(caller.fileno()).st_ino)
            assert netlink._socket is not None
            descriptors.add(netlink._socket.fileno())
        for pair in pairs:
            for each in pair:
                each.close()
    assert len(descriptors) == 1
    netlink.close()


def test_no_such_connection(netlink: NetlinkSocket) -> None:
    """What does not exist is ENOENT, and the socket can be used on."""
    for _ in range(2):
        with pytest.raises(NetlinkError) as raised:
            netlink.ask(SOCK_DIAG_BY_FAMILY, encode(NOBODY))
        assert raised.value.errno == errno.ENOENT
    netlink.close()


def test_malformed_question(netlink: NetlinkSocket) -> None:
    """What the kernel does not understand is an error with its number."""
    with pytest.raises(NetlinkError) as raised:
        netlink.ask(SOCK_DIAG_BY_FAMILY, b"")
    assert raised.value.errno == errno.EINVAL
    netlink.close()


def test_answers_of_others_are_not_believed(netlink: NetlinkSocket) -> None:
    """What another process sends to our port, and answers to other questions, are passed over."""
    with pytest.raises(NetlinkError):
        netlink.ask(SOCK_DIAG_BY_FAMILY, encode(NOBODY))
    ours = netlink._socket
    assert ours is not None
    # Left behind: an answer with a number that is not ours.
    ours.send(struct.pack("=IHHII", 16, SOCK_DIAG_BY_FAMILY, 1, 999, 0))
    with pytest.raises(NetlinkError) as raised:
        netlink.ask(SOCK_DIAG_BY_FAMILY, encode(NOBODY))
    assert raised.value.errno == errno.ENOENT
    netlink.close()


def test_a_broken_socket_is_replaced(netlink: NetlinkSocket) -> None:
    """After a failure of the socket the next question has a new one."""
    with pytest.raises(NetlinkError):
        netlink.ask(SOCK_DIAG_BY_FAMILY, encode(NOBODY))
    assert netlink._socket is not None
    os.close(netlink._socket.detach())
    with pytest.raises(NetlinkError) as raised:
        netlink.ask(SOCK_DIAG_BY_FAMILY, encode(NOBODY))
    assert raised.value.errno == errno.EBADF
    with pytest.raises(NetlinkError) as raised:
        netlink.ask(SOCK_DIAG_BY_FAMILY, encode(NOBODY))
    assert raised.value.errno == errno.ENOENT
    netlink.close()


def test_unknown_protocol() -> None:
    """A family that the kernel does not have is an error, not an exception of the socket."""
    with pytest.raises(NetlinkError):
        NetlinkSocket(31).ask(1, b"")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="connection tracking is for root")
def test_untracked_connection() -> None:
    """A connection that nobody tracks is ENOENT."""
    tracked = NetlinkSocket(conntrack.NETLINK_NETFILTER)
    with pytest.raises(NetlinkError) as raised:
        tracked.ask(conntrack.GET, conntrack.encode(NOBODY))
    assert raised.value.errno == errno.ENOENT
    tracked.close()
