"""The PROXY protocol's header, version 2: what a workload is told of a caller, before the first byte. Pure.

A workload that asks for it (``proxy_protocol = "v2"``) reads the caller's address and, where the caller has
proven one, its SPIFFE ID in a TLV of type `SPIFFE_ID`. The header says nothing that the rules did not decide
upon: the workload may rely on it, since nobody but the proxy reaches it.
Source: The PROXY protocol, versions 1 & 2 (HAProxy, 2020), sections 2.2 and 2.2.7.
"""

import ipaddress
import struct
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
# Version 2 in the upper half; LOCAL is for connections of the proxy's own, PROXY for those it passes on.
_LOCAL, _PROXY = 0x20, 0x21
# Address family in the upper half, the lower says TCP.
_TCP4, _TCP6, _UNSPEC = 0x11, 0x21, 0x00
_PREFIX = struct.Struct("!12sBBH")
_PORTS = struct.Struct("!HH")
_TLV = struct.Struct("!BH")

# The first of the types that are left to applications (PP2_TYPE_MIN_CUSTOM): a URI in ASCII.
SPIFFE_ID: Final = 0xE0

# Before a health check's first byte: the connection is the proxy's own and speaks for nobody.
LOCAL_HEADER: Final = _PREFIX.pack(_SIGNATURE, _LOCAL, _UNSPEC, 0)


def proxy_header(*, source: tuple[str, int], destination: tuple[str, int], spiffe_id: str = "") -> bytes:
    """Give the header of a connection that is passed on.

    Args:
        source: the caller's address, an IP literal, and port; 0 where the port is not known.
        destination: what was called.
        spiffe_id: who the caller has proven to be; empty adds no TLV.
    """
    ends = ipaddress.ip_address(source[0]), ipaddress.ip_address(destination[0])
    if all(each.version == 4 for each in ends):
        family, addresses = _TCP4, b"".join(each.packed for each in ends)
    else:
        # One family for both: IPv4 as IPv6, as HAProxy writes it (RFC 4291 section 2.5.5.2).
        family, addresses = _TCP6, b"".join(map(_as_ipv6, ends))
    body = addresses + _PORTS.pack(source[1], destination[1])
    if spiffe_id:
        value = spiffe_id.encode("ascii")
        body += _TLV.pack(SPIFFE_ID, len(value)) + value
    return _PREFIX.pack(_SIGNATURE, _PROXY, family, len(body)) + body


def _as_ipv6(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return address.packed if address.version == 6 else b"\x00" * 10 + b"\xff\xff" + address.packed
