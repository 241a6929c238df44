"""Connection tracking: what a redirected connection was before the redirect. Pure.

Sources: linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h. The kernel must be asked: two callers may use
the same source port to two destinations, which the redirect makes one, so it gives the second another source
port. A socket found under that port would be somebody else's.
"""

import struct

from node_proxy.dataplane.sock_diag import Flow, MalformedAnswer

# Netlink family; subsystem CTNETLINK, message IPCTNL_MSG_CT_GET.
NETLINK_NETFILTER = 12
GET = 1 << 8 | 1

_AF_INET, _AF_INET6 = 2, 10
_TCP = b"\x06"
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
# CTA_*, CTA_TUPLE_*, CTA_IP_*, CTA_PROTO_*.
_ORIGINAL, _REPLY = 1, 2
_ADDRESSES, _PROTOCOL = 1, 2
_V4_SOURCE, _V4_DESTINATION, _V6_SOURCE, _V6_DESTINATION = 1, 2, 3, 4
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3

_HEADER = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_PORT = struct.Struct("!H")


def encode(redirected: Flow) -> bytes:
    """Write the query for a connection as it arrived; what it was called with is in the answer."""
    v6 = len(redirected.source) == 16
    # The reply goes the other way.
    addresses = _attribute(_V6_SOURCE if v6 else _V4_SOURCE, redirected.destination)
    addresses += _attribute(_V6_DESTINATION if v6 else _V4_DESTINATION, redirected.source)
    protocol = (
        _attribute(_NUMBER, _TCP)
        + _attribute(_SOURCE_PORT, _PORT.pack(redirected.destination_port))
        + _attribute(_DESTINATION_PORT, _PORT.pack(redirected.source_port))
    )
    return _HEADER.pack(_AF_INET6 if v6 else _AF_INET, 0, 0) + _attribute(
        _NESTED | _REPLY,
        _attribute(_NESTED | _ADDRESSES, addresses) + _attribute(_NESTED | _PROTOCOL, protocol),
    )


def decode(answer: bytes) -> Flow:
    """Read the connection as its caller made it.

    Raises:
        MalformedAnswer: something is missing or cut short.
    """
    try:
        tuple_ = _attributes(_attributes(answer[_HEADER.size :])[_ORIGINAL])
        addresses, protocol = _attributes(tuple_[_ADDRESSES]), _attributes(tuple_[_PROTOCOL])
        v6 = _V6_SOURCE in addresses
        flow = Flow(
            addresses[_V6_SOURCE if v6 else _V4_SOURCE],
            int(_PORT.unpack(protocol[_SOURCE_PORT])[0]),
            addresses[_V6_DESTINATION if v6 else _V4_DESTINATION],
            int(_PORT.unpack(protocol[_DESTINATION_PORT])[0]),
        )
    except (KeyError, struct.error) as error:
        raise MalformedAnswer(f"no original connection: {error!r}") from error
    if {len(flow.source), len(flow.destination)} != {16 if v6 else 4}:
        raise MalformedAnswer("addresses of a wrong size")
    return flow


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            raise MalformedAnswer("an attribute runs over the end")
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found
