"""SOCK_DIAG: the exact query for one TCP socket of this host, and its answer. Pure.

Sources: linux/sock_diag.h, linux/inet_diag.h. The socket asked for is the caller's: from its own address to
where it connected. After a redirect that is the original destination: the caller's socket knows nothing of
it.
"""

import struct
from dataclasses import dataclass

# Netlink family and message type.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20

_AF_INET, _AF_INET6 = 2, 10
_IPPROTO_TCP = 6
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
# INET_DIAG_CGROUP_ID; given without being asked for since Linux 5.9.
_CGROUP_ID = 21
_MAPPED = bytes(10) + b"\xff\xff"

# struct inet_diag_req_v2: family, protocol, extensions, padding, states; then struct inet_diag_sockid.
_REQUEST = struct.Struct("=BBBxI")
_PORTS = struct.Struct("!HH")
_REST = struct.Struct("=III")
# struct inet_diag_msg: family, state, timer, retransmits, sockid, expires, queues, uid, inode.
_ANSWER = struct.Struct("=BBBB4s32s12xIIIII")
_ATTRIBUTE = struct.Struct("=HH")
_ID = struct.Struct("=Q")

# include/net/tcp_states.h: of a connection that once stood. Not SYN_SENT, whose other end is still to come,
# nor LISTEN, which the kernel gives when no connection fits; both may be somebody else's.
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 4, 5, 8, 9, 11
CONNECTED = frozenset({ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING})


class MalformedAnswer(Exception):
    """The kernel's answer is not what its headers promise."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection from its caller's side: packed addresses, ports, and the interface of link-local ones."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    interface: int = 0


@dataclass(frozen=True, slots=True)
class SocketOwner:
    """Who made a socket. `uid` and `inode` are None once it was closed; `cgroup_id` may outlive them."""

    uid: int | None
    inode: int | None
    cgroup_id: int | None


def encode(flow: Flow) -> bytes:
    """Write the query for the socket of `flow`; the kernel files IPv4 in IPv6 under IPv4."""
    source, destination = _plain(flow.source), _plain(flow.destination)
    family = _AF_INET if len(source) == 4 else _AF_INET6
    return b"".join(
        (
            _REQUEST.pack(family, _IPPROTO_TCP, 0, _ALL_STATES),
            _PORTS.pack(flow.source_port, flow.destination_port),
            source.ljust(16, b"\0"),
            destination.ljust(16, b"\0"),
            _REST.pack(flow.interface, _NO_COOKIE, _NO_COOKIE),
        )
    )


def decode(answer: bytes, flow: Flow) -> SocketOwner | None:
    """Read the answer; None when it is about no connection of `flow`.

    Raises:
        MalformedAnswer: it is cut short.
    """
    if len(answer) < _ANSWER.size:
        raise MalformedAnswer(f"{len(answer)} bytes")
    _, state, _, _, ports, _, _, _, _, uid, inode = _ANSWER.unpack_from(answer)
    if state not in CONNECTED or ports != _PORTS.pack(flow.source_port, flow.destination_port):
        return None
    cgroup_id = _find_cgroup(answer)
    if inode == 0:
        # Nobody holds it any more. Kernels before 6.17 then say uid 0, whoever it was.
        return SocketOwner(None, None, cgroup_id) if cgroup_id is not None else None
    return SocketOwner(uid, inode, cgroup_id)


def _find_cgroup(answer: bytes) -> int | None:
    offset = _ANSWER.size
    while offset + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, offset)
        if length < _ATTRIBUTE.size or offset + length > len(answer):
            raise MalformedAnswer("an attribute runs over the end")
        if kind == _CGROUP_ID:
            if length != _ATTRIBUTE.size + _ID.size:
                raise MalformedAnswer(f"a cgroup id of {length - _ATTRIBUTE.size} bytes")
            return int(_ID.unpack_from(answer, offset + _ATTRIBUTE.size)[0])
        offset += (length + 3) & ~3
    return None


def _plain(address: bytes) -> bytes:
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address
