import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane import conntrack
from node_proxy.dataplane.sock_diag import (
    CONNECTED,
    ESTABLISHED,
    FIN_WAIT2,
    Flow,
    MalformedAnswer,
    SocketOwner,
    decode,
    encode,
)

FLOW = Flow(socket.inet_aton("127.0.0.1"), 40000, socket.inet_aton("240.240.0.1"), 80)
LISTEN, SYN_SENT, TIME_WAIT = 10, 2, 6


def answer(
    *,
    state: int = ESTABLISHED,
    ports: tuple[int, int] = (40000, 80),
    uid: int = 33,
    inode: int = 5,
    attributes: bytes = struct.pack("=HHB3x", 5, 8, 1) + struct.pack("=HHQ", 12, 21, 1 << 40),
) -> bytes:
    """Write an answer as the kernel does."""
    head = struct.pack("=BBBB", 2, state, 0, 0) + struct.pack("!HH", *ports) + bytes(44)
    return head + struct.pack("=IIIII", 0, 0, 0, uid, inode) + attributes


def test_query() -> None:
    """The query names the caller's socket, its own end first."""
    query = encode(FLOW)
    assert query[:8] == struct.pack("=BBBBI", 2, 6, 0, 0, 0xFFFFFFFF)
    assert query[8:12] == struct.pack("!HH", 40000, 80)
    assert query[12:16] == FLOW.source
    assert query[28:32] == FLOW.destination
    assert query[44:] == struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)


def test_query_of_mapped_addresses() -> None:
    """IPv4 in IPv6 is asked for as IPv4."""
    mapped = Flow(
        bytes(10) + b"\xff\xff" + FLOW.source, 40000, bytes(10) + b"\xff\xff" + FLOW.destination, 80
    )
    assert encode(mapped) == encode(FLOW)


def test_owner() -> None:
    """The answer tells uid, inode and cgroup id."""
    assert decode(answer(), FLOW) == SocketOwner(33, 5, 1 << 40)
    assert decode(answer(attributes=b""), FLOW) == SocketOwner(33, 5, None)


def test_closed_socket() -> None:
    """Of a socket that nobody holds any more, the uid is not believed."""
    assert decode(answer(state=FIN_WAIT2, uid=0, inode=0), FLOW) == SocketOwner(None, None, 1 << 40)
    assert decode(answer(state=FIN_WAIT2, uid=0, inode=0, attributes=b""), FLOW) is None


@pytest.mark.parametrize(
    "other",
    [{"state": LISTEN}, {"state": SYN_SENT}, {"state": TIME_WAIT}, {"ports": (40000, 0)}, {"ports": (1, 80)}],
)
def test_somebody_elses_socket(other: dict[str, object]) -> None:
    """A listener, or a socket that is not connected as asked for, is no answer."""
    assert decode(answer(**other), FLOW) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        answer()[:70],
        answer(attributes=struct.pack("=HHQ", 99, 21, 1)),
        answer(attributes=struct.pack("=HHI", 8, 21, 1)),
        answer(attributes=struct.pack("=HH", 0, 0)),
    ],
)
def test_malformed(broken: bytes) -> None:
    """An answer that contradicts itself is an error."""
    with pytest.raises(MalformedAnswer):
        decode(broken, FLOW)


@given(st.binary(max_size=200), st.sampled_from(sorted(CONNECTED)))
def test_any_answer(data: bytes, state: int) -> None:
    """Whatever comes is read or is an error, and takes no time without end."""
    for text in (data, answer(state=state, attributes=data)):
        with contextlib.suppress(MalformedAnswer):
            decode(text, FLOW)
        with contextlib.suppress(MalformedAnswer):
            conntrack.decode(text)


def attribute(kind: int, value: bytes) -> bytes:
    """Write a netlink attribute."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_original_connection(family: socket.AddressFamily) -> None:
    """The original connection is read from an answer; a query names the reply, which goes the other way."""
    local, virtual = ("127.0.0.1", "240.240.0.1") if family == socket.AF_INET else ("::1", "fd00::1")
    arrived = Flow(socket.inet_pton(family, local), 41000, socket.inet_pton(family, local), 15001)
    query = conntrack.encode(arrived)
    kinds = (1, 2) if family == socket.AF_INET else (3, 4)
    ports = (
        attribute(1, b"\6") + attribute(2, struct.pack("!H", 15001)) + attribute(3, struct.pack("!H", 41000))
    )
    addresses = attribute(kinds[0], arrived.destination) + attribute(kinds[1], arrived.source)
    assert query == struct.pack("=BBH", family, 0, 0) + attribute(
        0x8002, attribute(0x8001, addresses) + attribute(0x8002, ports)
    )
    ports = attribute(1, b"\6") + attribute(2, struct.pack("!H", 40000)) + attribute(3, struct.pack("!H", 80))
    addresses = attribute(kinds[0], socket.inet_pton(family, local))
    addresses += attribute(kinds[1], socket.inet_pton(family, virtual))
    original = attribute(0x8001, attribute(0x8001, addresses) + attribute(0x8002, ports))
    assert conntrack.decode(struct.pack("=BBH", family, 0, 0) + original + attribute(0x8002, b"")) == Flow(
        socket.inet_pton(family, local), 40000, socket.inet_pton(family, virtual), 80
    )


@pytest.mark.parametrize(
    "broken", [b"", bytes(4), bytes(4) + attribute(0x8001, b""), bytes(4) + b"\xff\xff\0\0"]
)
def test_no_original_connection(broken: bytes) -> None:
    """An answer without the original connection is an error."""
    with pytest.raises(MalformedAnswer):
        conntrack.decode(broken)
