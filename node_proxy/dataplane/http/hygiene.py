"""Which fields of a header may cross the mesh, and which ones each proxy sets itself. Pure.

Two families are no caller's to say: ``nodemesh-…``, the mesh's own, and what speaks of those a caller calls
for (``forwarded``, ``x-forwarded-…``). Names are compared with ``_`` and every other sign as ``-``: CGI and
WSGI, and whatever learned from them, take ``x_forwarded_for`` for the same, PHP ``x.forwarded.for`` too.

Nothing here concerns framing: what belongs to one connection is no field (`message`).
"""

import ipaddress
import re
from functools import lru_cache
from typing import Final

from node_proxy.dataplane.http.deadline_fields import MESH_TIMEOUT
from node_proxy.dataplane.http.message import Field, Fields

CALLER_FIELD: Final = b"nodemesh-caller"
ATTEMPT_FIELD: Final = b"nodemesh-attempt"
ROUTE_FIELD: Final = b"nodemesh-route"

FORWARDED: Final = b"forwarded"
FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_PROTO: Final = b"x-forwarded-proto"
FORWARDED_HOST: Final = b"x-forwarded-host"

_MESH: Final = b"nodemesh-"
_SPEAKS_FOR_OTHERS: Final = b"x-forwarded-"
# Not set here, but workloads behind other proxies are used to believe them.
_OTHERS_ADDRESS: Final = frozenset(
    {FORWARDED, b"x-real-ip", b"x-client-ip", b"true-client-ip", b"x-cluster-client-ip"}
)
# How the names of the one family begin, and those of the other: by far the most need no closer look.
_MESH_BEGINS: Final = b"n"
_OTHERS_BEGIN: Final = frozenset({b"f", b"t", b"x"})
_SIGNS: Final = b"!#$%&'*+.^_`|~"
_SAME: Final = bytes.maketrans(_SIGNS, b"-" * len(_SIGNS))

# A list that grew beyond this is a loop, or an attempt to push the true addresses out of somebody's log.
MAX_FORWARDED: Final = 4096

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")

# RFC 9110 section 6.5.1: no trailer may change how the message is framed, routed, authenticated, stored or
# read. Many servers merge trailers into the header.
_NEVER_TRAILERS: Final = frozenset(
    {
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"keep-alive",
        b"max-forwards",
        b"pragma",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"range",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"www-authenticate",
    }
)


def is_mesh_field(name: bytes) -> bool:
    """Whether a field's name is of the mesh's own."""
    return name.translate(_SAME).startswith(_MESH)


def speaks_for_others(name: bytes) -> bool:
    """Whether a field says whom a caller calls for."""
    plain = name.translate(_SAME)
    return plain.startswith(_SPEAKS_FOR_OTHERS) or plain in _OTHERS_ADDRESS


def request_at_source(fields: Fields, *, route: str, attempt: int) -> Fields:
    """Give the header that the source's proxy sends for its workload: what that said, and what we add.

    Args:
        fields: as the workload sent them.
        route: ``namespace/name`` of the route that matched; empty if none did.
        attempt: which try this is, from 1.
    """
    kept = [
        each
        for each in fields
        if each[0][:1] != _MESH_BEGINS or not is_mesh_field(each[0]) or each[0] == MESH_TIMEOUT
    ]
    if route:
        kept.append((ROUTE_FIELD, route.encode("ascii", "replace")))
    if attempt > 1:
        kept.append((ATTEMPT_FIELD, b"%d" % attempt))
    return kept


def request_at_destination(
    fields: Fields, *, authority: bytes, address: str, identity: str, in_mesh: bool, trusted: bool
) -> Fields:
    """Give the header that the destination's proxy hands to its workload.

    Args:
        fields: as they came from the caller, or from the caller's proxy.
        authority: the host that was asked for.
        address: the caller's, an IP literal.
        identity: the caller's proven SPIFFE ID; empty when it proved none.
        in_mesh: whether a proxy of the mesh sent this: only then is its ``nodemesh-attempt`` believed.
        trusted: whether the service believes this caller about those it calls for. Never true without a
            proven identity.
    """
    believed = trusted and bool(identity)
    kept: Fields = []
    before: dict[bytes, bytes] = {}
    for each in fields:
        name = each[0]
        begins = name[:1]
        if begins == _MESH_BEGINS and is_mesh_field(name):
            if name == MESH_TIMEOUT or (name == ATTEMPT_FIELD and in_mesh):
                kept.append(each)
        elif begins not in _OTHERS_BEGIN or not speaks_for_others(name):
            kept.append(each)
        elif believed:
            if name.translate(_SAME) != name:
                # It would be a second list beside the one that is continued here.
                continue
            if name in (FORWARDED, FORWARDED_FOR):
                before[name] = b", ".join((before[name], each[1])) if name in before else each[1]
            else:
                before.setdefault(name, each[1])
                kept.append(each)
    own_forwarded, own_for, proto, host = _own(address, authority)
    kept.append(_continued(FORWARDED, before, own_forwarded))
    kept.append(_continued(FORWARDED_FOR, before, own_for))
    if FORWARDED_PROTO not in before:
        kept.append(proto)
    if FORWARDED_HOST not in before and authority:
        kept.append(host)
    if identity:
        kept.append((CALLER_FIELD, identity.encode("ascii", "replace")))
    return kept


def answer_at_destination(fields: Fields) -> Fields:
    """Give a workload's header without what only the mesh may say: a reason, above all."""
    return [each for each in fields if each[0][:1] != _MESH_BEGINS or not is_mesh_field(each[0])]


def clean_trailers(fields: Fields) -> Fields:
    """Give the trailers that may be passed on; a trailer says nothing that is decided by the header."""
    return [
        each
        for each in fields
        if each[0].translate(_SAME) not in _NEVER_TRAILERS
        and not is_mesh_field(each[0])
        and not speaks_for_others(each[0])
    ]


# A workload has few callers, and they ask for few names.
@lru_cache(maxsize=1024)
def _own(address: str, authority: bytes) -> tuple[bytes, bytes, Field, Field]:
    literal = address.encode("ascii", "replace")
    node = b'"[%s]"' % literal if ipaddress.ip_address(address).version == 6 else literal
    forwarded = b"for=%s;proto=http" % node
    if authority:
        forwarded = b"for=%s;host=%s;proto=http" % (node, _quoted(authority))
    return forwarded, literal, (FORWARDED_PROTO, b"http"), (FORWARDED_HOST, authority)


def _quoted(value: bytes) -> bytes:
    """Give a value of RFC 7239 section 4: a token as it is, all else in quotes."""
    if _TOKEN.match(value):
        return value
    return b'"%s"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _continued(name: bytes, before: dict[bytes, bytes], own: bytes) -> Field:
    said = before.get(name, b"")
    return name, b"%s, %s" % (said, own) if said and len(said) <= MAX_FORWARDED else own
