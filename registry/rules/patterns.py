"""The lists of values in a policy's fields, each made into one test.

Pure. Exact, prefix, suffix and presence matches as in Istio; the empty text, which stands for what is absent,
passes no test, ``*`` included.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

from registry.rules.paths import canonical_escapes
from registry.rules.request import Repeated

Contains = Callable[[Any], bool]

# Callers' addresses are those of the mesh's hosts: about as many as a large mesh has, at some 200 bytes.
_KNOWN_ADDRESSES: Final = 4096
_PORT_SUFFIX: Final = re.compile(r":[0-9]*\Z")


def text_test(patterns: Sequence[str]) -> Contains:
    """Any of the exact values, prefixes, suffixes."""
    if "*" in patterns:
        return bool
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
    prefixes = tuple(pattern.removesuffix("*") for pattern in patterns if pattern.endswith("*"))
    suffixes = tuple(pattern.removeprefix("*") for pattern in patterns if pattern.startswith("*"))
    if not prefixes and not suffixes:
        return exact.__contains__

    def matches(text: str) -> bool:
        return text in exact or text.startswith(prefixes) or text.endswith(suffixes)

    return matches


def port_test(ports: Sequence[str]) -> Contains:
    """Any of the ports."""
    return frozenset(map(int, ports)).__contains__


def host_test(patterns: Sequence[str]) -> Contains:
    """A host, whatever its case, the port it comes with or the dot it ends in.

    Who names a host without a port means it at every port; so does a caller that adds one.
    """
    matches = text_test([pattern.lower() for pattern in patterns])

    def contains(host: str) -> bool:
        return any(map(matches, bare_hosts(host)))

    return contains


def bare_hosts(host: str) -> tuple[str, ...]:
    """Give a host as it is written, without the port it comes with, and without the dot it ends in."""
    bare = _PORT_SUFFIX.sub("", host)
    if bare == host and not bare.endswith("."):
        return (host,)
    return tuple(dict.fromkeys((host, bare, bare.removesuffix("."))))


def path_test(patterns: Sequence[str]) -> Contains:
    """A normalised path; ``{*}`` is one segment, ``{**}`` any number of them."""
    templates = tuple(_template(pattern).fullmatch for pattern in patterns if "{" in pattern)
    plain = [canonical_escapes(pattern) for pattern in patterns if "{" not in pattern]
    matches = text_test(plain)
    if not templates:
        return matches

    def contains(path: str) -> bool:
        return matches(path) or any(template(path) for template in templates)

    return contains


def header_test(name: str, patterns: Sequence[str], *, every: bool = True) -> Contains:
    """The header's value; ``*`` holds when the header is there, whatever its value.

    Of one that came several times `every` value must pass, and all of them joined; or else any is enough.
    """
    if "*" in patterns:
        return lambda headers: headers is not None and name in headers
    matches = text_test(patterns)
    enough = all if every else any

    def contains(headers: Mapping[str, str] | None) -> bool:
        value = None if headers is None else headers.get(name)
        if value is None:
            return False
        return enough(map(matches, (value, *value.each))) if isinstance(value, Repeated) else matches(value)

    return contains


def network_test(blocks: Sequence[str]) -> Contains:
    """An address within any of the networks."""
    tables: dict[tuple[int, int], set[int]] = {}
    for block in blocks:
        version, shift, prefix = read_network(block)
        tables.setdefault((version, shift), set()).add(prefix)
    shifts = [(version, shift, frozenset(prefixes)) for (version, shift), prefixes in tables.items()]

    def contains(address: str) -> bool:
        version, number = read_address(address)
        return any(version == of and (number >> shift) in prefixes for of, shift, prefixes in shifts)

    return contains


def read_network(block: str) -> tuple[int, int, int]:
    """Give a network's IP version, how many low bits of an address it leaves open, and the others."""
    network = ip_network(block)
    shift = network.max_prefixlen - network.prefixlen
    return network.version, shift, int(network.network_address) >> shift


@lru_cache(maxsize=_KNOWN_ADDRESSES)
def read_address(text: str) -> tuple[int, int]:
    """Give an address's IP version and number; version 0 for what is absent or none.

    An IPv4 address that came in over an IPv6 socket is the IPv4 address.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return 0, 0
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


def _template(pattern: str) -> re.Pattern[str]:
    parts = {"{*}": "[^/]+", "{**}": ".*"}
    return re.compile(
        "/".join(
            parts.get(segment) or re.escape(canonical_escapes(segment)) for segment in pattern.split("/")
        )
    )
