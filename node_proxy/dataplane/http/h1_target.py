"""What a request is for: its target and Host as one authority and one path (RFC 9112 section 3). Pure."""

from node_proxy.dataplane.http.h1_syntax import (
    ABSOLUTE_FORM,
    AUTHORITY,
    BAD_HOST,
    BAD_TARGET,
    bad,
)
from node_proxy.dataplane.http.message import Version

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def read_target(
    method: bytes, target: bytes, host: bytes | None, version: Version
) -> tuple[bytes, bytes, bytes]:
    """Give scheme, authority and target as path and query.

    Raises:
        MessageRefused: it is none of the forms, or target and Host mean two things.
    """
    if host is None:
        if version is Version.HTTP_11:
            raise bad(BAD_HOST, "there is no Host field")
        authority = b""
    else:
        authority = _authority(host) if host else b""
    if b"#" in target:
        # Where does the path end? Some say before it, some behind.
        raise bad(BAD_TARGET, "the target has a fragment")
    if target.startswith(b"/"):
        return b"http", authority, target
    if target == b"*":
        if method != b"OPTIONS":
            raise bad(BAD_TARGET, "only OPTIONS has the target *")
        return b"http", authority, target
    found = ABSOLUTE_FORM.fullmatch(target)
    if found is None or not found[2]:
        raise bad(BAD_TARGET, "the target is neither a path nor a URL of http")
    scheme, named, path = found[1].lower(), _authority(found[2]), found[3] or b""
    if host is not None and _without_default(authority, scheme) != _without_default(named, scheme):
        raise bad(BAD_HOST, "target and Host name different authorities")
    if not path:
        # RFC 9112 section 3.2.4: to ask for nothing in particular is written so in this form.
        path = b"*" if method == b"OPTIONS" else b"/"
    return scheme, named, path if path[:1] in b"/*" else b"/" + path


def _authority(text: bytes) -> bytes:
    authority = text.lower()
    found = AUTHORITY.fullmatch(authority)
    if found is None or (found[1] is not None and int(found[1]) > 65535):
        raise bad(BAD_HOST, "the host is malformed")
    return authority


def _without_default(authority: bytes, scheme: bytes) -> bytes:
    return authority.removesuffix(_DEFAULT_PORTS[scheme])
