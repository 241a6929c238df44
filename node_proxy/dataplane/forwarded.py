"""The ``forwarded`` header of a CONNECT: the address that the caller's own socket has, on its host. Pure.

A tunnel shows the address of the calling host's proxy; a host may have several, or be seen through NAT. What
a peer writes here is its word: whether it counts is for the tables to say (`Tables.is_address_of`).
Source: RFC 7239 sections 4 and 6.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Final

from node_proxy.address import join_address

FORWARDED_HEADER: Final = b"forwarded"
# Longer than any address with a port, and than the other parameters that an honest peer adds.
_MAX_LENGTH: Final = 256

# One element, of pairs whose values are tokens, or quoted without escapes.
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rf'(?P<name>{_WORD})=(?:(?P<token>{_WORD})|"(?P<quoted>[^"\\\x00-\x1f]*)")')
_NODE = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?\Z")


def render_forwarded(address: str, port: int) -> bytes:
    """Give the header's value for a caller at an IP literal and a port."""
    return f'for="{join_address(address, port)}"'.encode("ascii")


def parse_forwarded(value: bytes) -> tuple[str, int] | None:
    """Read the caller's address and port (0 when there is none); None when it is not exactly one address.

    A list of several proxies, an obfuscated or unknown node, anything out of form: nothing was said.
    """
    if len(value) > _MAX_LENGTH:
        return None
    node = _NODE.match(_only_for(value.decode("ascii", "replace").strip(" \t")))
    if node is None:
        return None
    port = int(node["port"] or 0)
    address = _canonical(node["v6"] or node["v4"], 6 if node["v6"] else 4)
    return None if port > 0xFFFF or address is None else (address, port)


# A host's callers have few addresses, and to read one costs more than all the rest.
@lru_cache(maxsize=1024)
def _canonical(text: str, version: int) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return str(address) if address.version == version else None


def _only_for(text: str) -> str:
    """Give the value of the one ``for`` of the one element; empty when the text is anything else."""
    found: list[str] = []
    position = 0
    while match := _PAIR.match(text, position):
        if match["name"].lower() == "for":
            found.append(match["token"] or match["quoted"] or "")
        position = match.end()
        if position == len(text):
            return found[0] if len(found) == 1 else ""
        if text[position] != ";":
            return ""
        position += 1
    return ""
